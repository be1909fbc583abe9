"""What the environment check found, and what each of the seven KV checks shows."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # names
    "package {name}": "软件包 {name}",
    "packages": "软件包",
    "gpu": "GPU",
    "gpu {n}": "GPU {n}",
    "gpu visible": "可见的 GPU",
    "driver": "驱动",
    "torch build": "torch 版本",
    "mixed precision": "混合精度",
    "memory": "内存",
    "runs folder": "运行文件夹",
    "tokenizer threads": "分词器线程",
    "models": "模型",
    "server": "服务器",
    "browser": "浏览器",
    # Python and packages
    "Python {version} at {path}": "Python {version}，位于 {path}",
    "use Python {oldest} or newer: {command}": "使用 Python {oldest} 或更新版本：{command}",
    "no {folder}/requirements.txt": "没有 {folder}/requirements.txt",
    "run kvlab from its repository, where this file lies": "在 kvlab 的仓库中运行，该文件就在其中",
    "not installed": "未安装",
    "{version} (asked for: {wanted})": "{version}（要求：{wanted}）",
    "any": "任意版本",
    "not looked at: {error}": "未检查：{error}",
    "install the missing packages first": "请先安装缺少的软件包",
    # devices
    "an NVIDIA device without a working driver": "有 NVIDIA 设备，但驱动不可用",
    "the GPU is there but its driver does not answer: "
    "run nvidia-smi and read its message": "GPU 存在但驱动没有应答：运行 nvidia-smi 并查看其信息",
    "none; everything runs on the processor, in float32": "无；全部在处理器上以 float32 运行",
    "float32 on the processor": "处理器上为 float32",
    "NVIDIA driver {version}": "NVIDIA 驱动 {version}",
    "{name}, {free} free of {total}": "{name}，{total} 中空闲 {free}",
    "{name}, {free} free of {total}: {used} is taken": "{name}，{total} 中空闲 {free}：已占用 {used}",
    "look at who uses it (nvidia-smi), or choose another with CUDA_VISIBLE_DEVICES": "查看谁在使用（nvidia-smi），或用"
    " CUDA_VISIBLE_DEVICES 选择另一个",
    "no GPU visible: CUDA_VISIBLE_DEVICES={setting}": "没有可见的 GPU：CUDA_VISIBLE_DEVICES={setting}",
    "unset CUDA_VISIBLE_DEVICES to use the GPU": "取消设置 CUDA_VISIBLE_DEVICES 以使用 GPU",
    "torch is the processor-only build": "torch 是仅支持处理器的版本",
    "install the CUDA build for this driver: https://pytorch.org/get-started/locally": "安装适合该驱动的 CUDA 版本："
    "https://pytorch.org/get-started/locally",
    "bfloat16 and float16 (compute capability {version})": "bfloat16 与 float16（计算能力 {version}）",
    "float16, no bfloat16 (compute capability {version})": "float16，无 bfloat16（计算能力 {version}）",
    # torch
    "the disk with the environment is slow or hangs; try "
    "again, or move the environment": "环境所在的磁盘很慢或没有响应；请重试，或移动环境",
    "torch did not import within {seconds} s": "torch 未能在 {seconds} 秒内导入",
    "torch does not import: {error}": "torch 无法导入：{error}",
    "reinstall it: {command}": "重新安装：{command}",
    "torch {version} built for {built} runs on {where}; {precision}": "torch {version}（为 {built} 构建）运行于 "
    "{where}；{precision}",
    "the processor": "处理器",
    "the processor only": "仅处理器",
    "no bfloat16": "无 bfloat16",
    # memory and disk
    "{free} free of {total}": "{total} 中空闲 {free}",
    "{free} free of {total} (granted to this job)": "{total}（分配给本作业）中空闲 {free}",
    "close other programs, or ask the batch system for more memory": "关闭其他程序，或向批处理系统申请更多内存",
    "make it writable: {command}": "使其可写：{command}",
    "{folder} cannot be written: {error}": "{folder} 不可写：{error}",
    "{folder} is writable, {n} GiB free": "{folder} 可写，空闲 {n} GiB",
    "free some space: a run keeps checkpoints and arrays": "释放一些空间：运行会保存检查点和数组",
    # the rest
    "every core may be used": "可使用全部核心",
    "every core may be used (TOKENIZERS_PARALLELISM={setting})": "可使用全部核心（TOKENIZERS_PARALLELISM={setting}）",
    "one core only: TOKENIZERS_PARALLELISM={setting}": "只用一个核心：TOKENIZERS_PARALLELISM={setting}",
    "unset TOKENIZERS_PARALLELISM: many prompts are read faster": "取消设置 TOKENIZERS_PARALLELISM：提示很多时读取更快",
    "missing: {names}": "缺少：{names}",
    "{names}, and {n} in the Hugging Face cache": "{names}，Hugging Face 缓存中还有 {n} 个",
    "listens on {address}; {guard}": "监听 {address}；{guard}",
    "{variable} is set": "已设置 {variable}",
    "no access token": "没有访问令牌",
    "an access token made and printed at each start": "每次启动时生成并打印访问令牌",
    "on a machine shared with others, set {variable} to a secret, or to {new}": "在与他人共用的机器上，将 {variable} "
    "设为密钥，或设为 {new}",
    'set address = "127.0.0.1" in .streamlit/config.toml, or KVLAB_TOKEN': "在 .streamlit/config.toml 中设 address = "
    '"127.0.0.1"，或设置 KVLAB_TOKEN',
    "no Chromium; the app does not need it": "没有 Chromium；应用不需要它",
    "only for the browser tests: apt-get install chromium": "仅浏览器测试需要：apt-get install chromium",
    # the seven checks
    "12 KV heads -> 2: at the start each student head is "
    "the mean of its six teacher heads.": "12 个 KV 头 → 2：初始时每个学生头是其六个教师头的均值。",
    "28 -> 2 heads and 128 -> 64 channels: equal to the one matrix it "
    "stands for; K and V share no weight.": "28 → 2 个头、128 → 64 个通道：等于它所代表的单个矩阵；K 与 V 不共享权重。",
    "80 -> 50 steps: integer indices, in range, monotone, both ends "
    "reached; the values are those steps.": "80 → 50 步：下标为整数、不越界、单调、到达两端；取值即为这些步。",
    "One step to one step is the identity.": "一步到一步是恒等映射。",
    "No teacher step: zeros of the right shape, marked as carrying "
    "no teacher signal, no index error.": "没有教师步：形状正确的零，标记为不带教师信号，且无下标错误。",
    "resample_kv_with_interpolation is linear interpolation: equal to "
    "numpy.interp, channel by channel.": "resample_kv_with_interpolation 即线性插值：逐通道等于 numpy.interp。",
    "Heads, then time: shapes match the student's, the loss is finite, "
    "every projector weight has a gradient.": "先头数后时间：形状与学生一致，损失有限，投影器的每个权重都有梯度。",
}
