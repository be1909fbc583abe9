"""What is said of training runs: settings, data, failures, phases, the forecast and the verdict."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # phases
    "waiting": "等待",
    "loading": "加载",
    "fitting the map": "拟合映射",
    "evaluating before": "训练前评估",
    "training": "训练",
    "evaluating after": "训练后评估",
    "saving": "保存",
    "reporting": "生成报告",
    # settings
    "correct this setting; `python -m kvlab train --help` lists them": "改正这一项设置；全部设置见 `python -m kvlab "
    "train --help`",
    "{n} fusion_weights for {teachers} teachers": "{teachers} 个教师对应了 {n} 个 fusion_weights",
    "fusion_weights must not be negative, nor all zero: {weights}": "fusion_weights 不能为负，也不能全为零：{weights}",
    'trainable "projector" needs map "structured": a ridge map is frozen': "trainable 为 projector 时 map 应为 "
    "structured：ridge 映射是冻结的",
    'trainable "projector" needs use_kv_projector and a KV loss, or nothing is trained': "trainable 为 projector 时需"
    "要 use_kv_projector 与 KV 损失，否则没有可训练的部分",
    "kv_alignment holds use_head_projector and use_safe_resample, not {section}": "kv_alignment 只含 "
    "use_head_projector 与 use_safe_resample，而不是 {section}",
    "settings in YAML in {file}": "{file} 中的 YAML 设置",
    "no table of settings": "没有设置表",
    "start from the config.yaml of a run": "从某次运行的 config.yaml 开始",
    "{flags}, or a --config that names them": "{flags}，或含有它们的 --config",
    "--teacher and --student": "--teacher 与 --student",
    "neither": "两者皆无",
    "name the models, for example: --teacher demo/teacher --student demo/student": "指定模型，例如：--teacher "
    "demo/teacher --student demo/student",
    "a new folder, or one of the same run: {folder}": "新的文件夹，或同一次运行的文件夹：{folder}",
    "metrics of a run with other settings": "设置不同的运行的指标",
    "choose another --output_dir, or go on with that "
    "run: --config DIR/config.yaml --output_dir DIR": "选择其他 --output_dir，或继续那次运行：--config "
    "DIR/config.yaml --output_dir DIR",
    "at least one teacher": "至少一个教师",
    "choose one under Teachers, for example demo/teacher": "在「教师」下选择一个，例如 demo/teacher",
    "a batch size that {n} processes share evenly": "能由 {n} 个进程均分的批大小",
    "use a multiple of {n}, or fewer processes": "使用 {n} 的倍数，或减少进程数",
    # data
    "at least three documents of different text: two to train on, one held out": "至少三篇文本不同的文档：两篇训练，一"
    "篇留出",
    "{n} in {place}": "{place} 中有 {n} 篇",
    "{n} in the upload": "上传中有 {n} 篇",
    "add documents, or use the bundled text: --data demo": "增加文档，或使用自带文本：--data demo",
    "add documents, or use the bundled text": "增加文档，或使用自带文本",
    "a folder with {extensions} files": "含有 {extensions} 文件的文件夹",
    "none in {place}": "{place} 中没有",
    "give a file or folder of documents, or use the bundled text: --data demo": "给出文档文件或文件夹，或使用自带文本"
    "：--data demo",
    "a file or folder with documents": "含有文档的文件或文件夹",
    "nothing at {place}": "{place} 处没有内容",
    "no path": "没有路径",
    "give the path as it is on the machine that runs this app, or use the bundled text": "给出运行本应用的机器上的路径"
    "，或使用自带文本",
    # what does not fit
    "a GPU for --fp16": "--fp16 需要 GPU",
    "the processor, which has no mixed precision in float16": "处理器没有 float16 混合精度",
    "use --bf16, or leave the precision out (float32)": "使用 --bf16，或不指定精度（float32）",
    "KV heads, key width and value width of {name}, {shape}, in every teacher": "每个教师的 KV 头数、键宽与值宽与 "
    "{name} 相同：{shape}",
    "{heads} x {keys} / {values} in {name}": "{name} 为 {heads} x {keys} / {values}",
    "project them: --use_kv_projector (kv_alignment: use_head_projector: true "
    "in a config file)": "对其投影：--use_kv_projector（配置文件中 kv_alignment: use_head_projector: true）",
    "at least {n} teacher steps for the {steps} of the student in document {document}": "文档 {document} 中学生有 "
    "{steps} 步，教师至少应有 {n} 步",
    "{n} of {name}: step {step} would be index {index} out of bounds": "{name} 有 {n} 步：第 {step} 步的下标 {index} "
    "越界",
    "resample the timeline: --use_safe_resample (kv_alignment: use_safe_resample: "
    "true in a file)": "重采样时间线：--use_safe_resample（文件中 kv_alignment: use_safe_resample: true）",
    "a student whose layers can be computed twice (gradient checkpointing)": "各层可重复计算的学生（梯度检查点）",
    "{name}, which has none": "{name} 没有可重复计算的层",
    "{name}, with a recurrent state": "{name} 带有循环状态",
    "leave --gradient_checkpointing out, and use a smaller batch: --batch_size 1": "不使用 --gradient_checkpointing，"
    "并减小批大小：--batch_size 1",
    "a cache of all {n} tokens in layer {layer} of {name}": "{name} 第 {layer} 层缓存全部 {n} 个词元",
    "nothing": "没有内容",
    "{n} tokens": "{n} 个词元",
    "choose a student whose layers cache every token": "选择各层都缓存全部词元的学生",
    # failures
    "finite losses and gradients": "有限的损失与梯度",
    "NaN or Inf in {names} at step {step}": "第 {step} 步的 {names} 中有 NaN 或 Inf",
    "see below": "见下文",
    "enough memory while {phase}": "「{phase}」阶段内存足够",
    "room to write the run's files": "有写入运行文件的空间",
    "tensors that fit together while {phase}": "「{phase}」阶段各张量形状相符",
    "the run to go on while {phase}": "「{phase}」阶段运行不中断",
    "the Python package {package}": "Python 软件包 {package}",
    "the Python package that is named": "所指的 Python 软件包",
    "install it: pip install {package}": "安装它：pip install {package}",
    "install what is named: pip install -r requirements.txt": "安装所指的软件包：pip install -r requirements.txt",
    "launch it again; if it fails again, choose the device cpu, where "
    "the message names the faulty step": "重新启动；若再次失败，选择设备 cpu，其报错会指明出错的步骤",
    "this is a fault of the program, please report it "
    "with training.log, where the traceback is": "这是程序的故障，请附上含有回溯信息的 training.log 报告",
    "batch size 1 with 4 accumulation steps: "
    "--batch_size 1 --gradient_accumulation_steps 4": "批大小 1，累积 4 步：--batch_size 1 "
    "--gradient_accumulation_steps 4",
    "compute activations twice: --gradient_checkpointing": "重复计算激活：--gradient_checkpointing",
    "train LoRA adapters only: --trainable lora": "只训练 LoRA 适配器：--trainable lora",
    "mixed precision: --bf16": "混合精度：--bf16",
    "shorter documents: --max_tokens {n}, or a smaller model": "更短的文档：--max_tokens {n}，或更小的模型",
    "float16 overflows where bfloat16 does not: --bf16, or leave the precision out": "float16 会溢出而 bfloat16 不会："
    "--bf16，或不指定精度",
    "a smaller learning rate: --lr {rate}": "更小的学习率：--lr {rate}",
    "a smaller learning rate: --lr 1e-5; if it stays, look "
    "for NaN in the models' weights": "更小的学习率：--lr 1e-5；若仍然如此，检查模型权重中是否有 NaN",
    "the projector and safe resampling are both on (use_kv_projector, use_safe_resample in config.yaml), so this is a "
    "fault of the program: please report it with training.log": "投影与安全重采样均已打开（config.yaml 中的 "
    "use_kv_projector、use_safe_resample），因此这是程序的故障：请附上 training.log 报告",
    "switch on {flags}": "打开 {flags}",
    # the device
    "runs on the processor; there are {n} GPUs that it does not use (--device auto)": "在处理器上运行；有 {n} 个 GPU "
    "未使用（--device auto）",
    "runs on the processor; no GPU was found": "在处理器上运行；没有找到 GPU",
    "runs on {device} in full precision; --bf16 (or --fp16) is "
    "faster and takes less memory": "在 {device} 上以全精度运行；--bf16（或 --fp16）更快且占用内存更少",
    "runs on {device} in mixed precision ({precision})": "在 {device} 上以混合精度运行（{precision}）",
    # the forecast
    "memory forecast: {total} ({lower} to {upper}) while {phase}, for timelines of up to {tokens} tokens; with {used} "
    "in use now, {share} of {all} on {device}": "内存预测：「{phase}」阶段 {total}（{lower} 至 {upper}），时间线至多 "
    "{tokens} 个词元；加上目前已用的 {used}，占 {device} 上 {all} 的 {share}",
    "{forecast}. WARNING: above {limit}; to take less: {changes}": "{forecast}。警告：超过 {limit}；减少占用的办法："
    "{changes}",
    "to take less: {changes}": "减少占用的办法：{changes}",
    "batch size 1 with 4 accumulation steps "
    "(--batch_size 1 --gradient_accumulation_steps 4)": "批大小 1，累积 4 步（--batch_size 1 "
    "--gradient_accumulation_steps 4）",
    # the verdict
    "models loaded": "模型加载",
    "forward passes": "前向传播",
    "loss converging": "损失收敛",
    "training stable": "训练稳定",
    "no NaN or Inf": "无 NaN 或 Inf",
    "few spikes": "尖峰很少",
    "no collapse": "未坍缩",
    "models and data are loaded": "模型与数据已加载",
    "not loaded: {error}": "未能加载：{error}",
    "the run ended": "运行已结束",
    "the run ended at step {n}": "运行在第 {n} 步结束",
    "waits for step {n}": "等待第 {n} 步",
    "{n} steps without an error": "{n} 步无错误",
    "mean of the last {m} losses {now} against {first} at "
    "step 1: {ratio}, wanted below {n}": "最近 {m} 步的平均损失为 {now}，第 1 步为 {first}：{ratio}，应低于 {n}",
    "smoothed over {n} steps, the loss is {now} and was {before} at "
    "step {step}, give or take {m}": "按 {n} 步平滑，损失为 {now}，第 {step} 步时为 {before}，误差 {m}",
    "every number so far is finite": "至今所有数值均为有限",
    "step {step}: {names} is NaN or Inf": "第 {step} 步：{names} 为 NaN 或 Inf",
    "{n} losses above {limit} times the median before them, at most {allowed} allowed": "{n} 个损失高于此前中位数的 "
    "{limit} 倍，至多允许 {allowed} 个",
    "the variance of the student's keys fell to {ratio}, below {limit}: a collapse": "学生键的方差降至 {ratio}，低于 "
    "{limit}：坍缩",
    "the variance of the student's values fell to {ratio}, below {limit}: a collapse": "学生值的方差降至 {ratio}，低于"
    " {limit}：坍缩",
    "the rank of the student's keys fell to {ratio}, below {limit}: a collapse": "学生键的秩降至 {ratio}，低于 {limit}"
    "：坍缩",
    "the rank of the student's values fell to {ratio}, below {limit}: a collapse": "学生值的秩降至 {ratio}，低于 "
    "{limit}：坍缩",
    "least variance of the student's keys and values: {n}": "学生键与值的最小方差比：{n}",
    "least variance of the student's keys and values: not measured": "学生键与值的最小方差比：未测量",
    "peak {share} of the device's memory, limit {n}": "峰值占设备内存的 {share}，上限 {n}",
}
