"""The Validation page: the form of a training run, and the settings' own descriptions."""

from __future__ import annotations

WORDS: dict[str, str] = {
    # The page.
    "A short training run answers one question: does distilling these teachers’ KV caches into this student work at "
    "all? It runs in a process of its own: close this page whenever you like, and come back for the verdict.": (
        "一次短训练回答一个问题：把这些教师的 KV 缓存蒸馏到这个学生，究竟行不行得通？训练在独立进程中运行："
        "可以随时关闭本页，之后再回来看结论。"
    ),
    "Waiting in the queue": "正在排队",
    "{name}: {words}": "{name}：{words}",
    "The queue of runs stands still.": "运行队列已停滞。",
    "New run": "新建运行",
    "{n:,} more wait in the queue.": "队列中还有 {n:,} 个运行在等待。",
    # The form.
    "Fill in: demo pair": "填入：演示模型对",
    "Fill in: two teachers, learned fusion": "填入：两个教师，学习融合",
    "A demo model, a Hugging Face id, an alias or a local folder; type to enter your own.": (
        "演示模型、Hugging Face id、别名或本地文件夹；可直接输入。"
    ),
    "One or several. {about}": "一个或多个。{about}",
    "Bundled text": "自带文本",
    "Folder on this machine": "本机文件夹",
    "Data": "数据",
    "A folder, or one file, of .txt, .jsonl, .csv or .parquet documents.": (
        "一个文件夹或一个文件，文档格式为 .txt、.jsonl、.csv 或 .parquet。"
    ),
    "Word problems in English and Chinese, made as they are needed; the held-out ones are others.": (
        "中英文应用题，按需生成；留出部分为另外的题目。"
    ),
    "Documents": "文档",
    "Path": "路径",
    "Steps": "步数",
    "Batch size, documents": "批大小（文档数）",
    "Map": "映射",
    "Control": "对照",
    "What is trained": "训练对象",
    "Fusion of teachers": "教师融合",
    "Project heads and width": "头数投影",
    "Resample the timeline": "安全重采样",
    "Functional test, before and after": "功能测试（训练前与训练后）",
    "before and after, put the projected cache into the student and measure what it costs (the functional test)": (
        "在训练前和训练后，把投影缓存注入学生，测量由此带来的损失（功能测试）"
    ),
    "Launch {steps:,}-step validation": "启动 {steps:,} 步验证训练",
    "Queueing the run…": "正在加入队列…",
    "The device is busy: {n:,} runs before it in the queue. Yours starts by itself as number {place}.": (
        "设备忙：队列中前面还有 {n:,} 个运行。轮到第 {place} 个时会自动开始。"
    ),
    "The analysis worker holds {models} on this GPU. Ending it gives that memory back; an analysis that is going on "
    "would fail, and can go on afterwards.": (
        "工作进程在此 GPU 上占用着 {models}。结束它可以释放显存；正在进行的分析会失败，之后可以继续。"
    ),
    "End the worker and launch": "结束工作进程并启动",
    "Launch beside it": "同时运行",
    "Do not launch": "不启动",
    "Ending the worker…": "正在结束工作进程…",
    # Under "Advanced".
    "Advanced: precision, accumulation, learning rate, seed, device, thresholds": (
        "高级设置：精度、梯度累积、学习率、随机种子、设备、阈值"
    ),
    "auto: a GPU where there is one. Runs on one device go one after the other.": (
        "auto：有 GPU 时使用 GPU。同一设备上的运行依次进行。"
    ),
    "Gradient checkpointing": "梯度检查点",
    "Entropy of a learned router": "学习路由器的熵",
    "Weights of fixed fusion, one per teacher": "固定融合的权重，每个教师一个",
    "all alike": "全部相同",
    "by the student’s size": "按学生规模",
    "Gradient accumulation, forwards per step": "梯度累积（每步前向次数）",
    "Learning rate of the student": "学生的学习率",
    "Learning rate of projector and router": "投影器与路由器的学习率",
    "Warm-up, share of the steps": "预热步数占比",
    "Gradients clipped to norm": "梯度裁剪范数",
    "Steps between checkpoints": "检查点间隔步数",
    "Seed": "随机种子",
    "Weight of the K loss": "K 损失权重",
    "Weight of the V loss": "V 损失权重",
    "Weight of the entropy term": "熵项权重",
    "Temperature of similarity fusion": "相似度融合的温度",
    "LoRA rank": "LoRA 秩",
    "Documents the map is fitted on": "拟合映射所用的文档数",
    "Held-out documents": "留出文档数",
    "Longest document, tokens": "最长文档（词元数）",
    "First tokens left out (sinks)": "略去的开头词元数（汇聚词元）",
    "**Thresholds of the verdict**": "**结论的阈值**",
    "Half time: last 5 losses over the first, below": "中点：近 5 步损失 / 首步，低于",
    "End: loss over that at half time, up to": "结束：损失 / 中点损失，至多",
    "A spike: times the median before it": "尖峰：此前中位数的倍数",
    "Share of steps that may be spikes": "允许的尖峰步数占比",
    "Peak memory, share of the device, below": "内存峰值占设备的比例，低于",
    "Variance of student K and V, at least": "学生 K、V 的方差，至少",
    "Effective rank of student K and V, at least": "学生 K、V 的有效秩，至少",
    # Choices.
    "ridge — closed form, frozen": "岭回归：闭式解，冻结",
    "KVProjector — trained along": "KVProjector：一同训练",
    "fixed — the same everywhere": "固定：处处相同",
    "similarity — by likeness": "相似度：按相近程度",
    "learned — a router": "学习：用路由器",
    "diverse — spread over the teachers": "多样：分散到各教师",
    "specialised — choose among them": "专一：在教师中选择",
    "the whole student": "整个学生模型",
    "LoRA adapters in the student": "学生中的 LoRA 适配器",
    "the projector only": "仅投影器",
    "none — the real run": "无：正式运行",
    "CE only — no teacher": "仅 CE：没有教师",
    "shuffled teacher": "打乱的教师",
    "random teacher": "随机教师",
    "fp32 — full precision": "fp32：全精度",
    "bf16 — mixed precision": "bf16：混合精度",
    "fp16 — mixed precision, GPU only": "fp16：混合精度，仅限 GPU",
    "depth — proportional": "depth：按深度比例",
    "held-out — the layers that explain best": "held-out：解释力最强的层",
    "floor — causal": "floor：因果",
    "exact — same last byte only": "exact：仅末字节相同处",
    "ceil — looks ahead": "ceil：会看到后文",
    "overlap — mean by shared bytes": "overlap：按重叠字节平均",
    "linear — by position": "linear：按位置插值",
    "nearest — by position": "nearest：按位置取最近",
    "segment — linear inside each part": "segment：各部分内线性插值",
    # Descriptions of the settings.
    "{name}: {description}.": "{name}：{description}。",
    "at half time: mean of the last 5 losses over the first, below": (
        "中点时：最近 5 步损失的均值与第 1 步之比，低于此值"
    ),
    "at the end: smoothed loss over the smoothed loss at half time, up to": (
        "结束时：平滑后的损失与中点时之比，至多为此值"
    ),
    "a loss this many times the median of the losses before it is a spike": (
        "损失达到此前损失中位数的这么多倍，即为尖峰"
    ),
    "share of steps that may be spikes": "允许成为尖峰的步数占比",
    "peak memory in use, as a share of the device, below": "内存占用峰值占设备的比例，低于此值",
    "student K and V variance over that before training, at least": "学生 K、V 的方差与训练前之比，至少为此值",
    "effective rank of student K and V over that at step 1, at least": "学生 K、V 的有效秩与第 1 步之比，至少为此值",
    "frozen models to learn from": "供学习的冻结模型",
    "the model that is trained: a demo model, a Hub id, a folder": "被训练的模型：演示模型、Hub id 或文件夹",
    "demo: the bundled text; prompts: the run's prompts.jsonl; or a local path": (
        "demo：自带文本；prompts：运行文件夹中的 prompts.jsonl；或本地路径"
    ),
    "optimiser steps": "优化器步数",
    "documents per forward, over all processes": "每次前向的文档数，所有进程合计",
    "forwards per optimiser step": "每个优化器步的前向次数",
    "compute activations twice instead of keeping them": "激活不保留，而是重算一遍",
    "fp16 and bf16: mixed precision, weights stay in fp32": "fp16 与 bf16：混合精度，权重保持 fp32",
    "of the student; none: 2e-5 from 100 M parameters on, else 1e-3; LoRA five times that": (
        "学生的学习率；不填时：1 亿参数及以上为 2e-5，否则为 1e-3；LoRA 为其五倍"
    ),
    "of a trainable projector and router": "可训练投影器与路由器的学习率",
    "gradients are clipped to this norm": "梯度裁剪到此范数",
    "share of the steps in which the rate rises; then it falls": "学习率上升阶段占总步数的比例；之后下降",
    "of the data order, the held-out documents and the controls": "决定数据顺序、留出文档与对照",
    "longest timeline per document; longer ones are cut, and said": "每篇文档的最长时间线；超出则截断并说明",
    "project the teacher's heads and width onto the student's": "把教师的头数与维度投影到学生",
    "resample the teacher's timeline onto the student's": "把教师的时间线重采样到学生",
    "ridge: closed form, frozen; structured: the trainable KVProjector": (
        "ridge：闭式解，冻结；structured：可训练的 KVProjector"
    ),
    "which teacher step stands for a student step": "学生的一步对应教师的哪一步",
    "which teacher layers explain a student layer": "哪些教师层解释一个学生层",
    "first content tokens of a document left out of fit and KV loss": "每篇文档开头不计入拟合与 KV 损失的内容词元数",
    "training documents that the map is fitted on before step 1": "第 1 步之前用于拟合映射的训练文档数",
    "how several teachers are weighed in the student's space": "多个教师在学生空间中如何加权",
    "of fixed fusion, one per teacher; none: all alike": "固定融合的权重，每个教师一个；不填时全部相同",
    "of similarity fusion: small is decided, large is even": "相似度融合的温度：小则偏向一方，大则平均",
    "of the entropy term of a learned router": "学习路由器熵项的权重",
    "diverse: spread over the teachers; specialised: choose among them": (
        "diverse：分散到各教师；specialised：在教师中选择"
    ),
    "weight of the loss on keys before RoPE": "RoPE 之前的键的损失权重",
    "weight of the loss on values": "值的损失权重",
    "the whole student, LoRA adapters in it, or the projector only": "整个学生、其中的 LoRA 适配器，或仅投影器",
    "rank of the LoRA adapters": "LoRA 适配器的秩",
    "a run that must not gain: no teacher, a shuffled or a random one": (
        "不应有提升的运行：没有教师、打乱的教师或随机教师"
    ),
    "held-out documents, measured before and after": "训练前后用于测量的留出文档数",
    "steps between two checkpoints": "两个检查点之间的步数",
    "auto, cpu, cuda or cuda:N": "auto、cpu、cuda 或 cuda:N",
    "of the verdict": "结论的阈值",
}
