"""What is said of models, their files, tokenizers, devices and number types."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # names
    "a demo model (demo/teacher, demo/teacher-b, demo/student), a Hugging Face id like Qwen/Qwen2-7B, or a local "
    "folder": "演示模型（demo/teacher、demo/teacher-b、demo/student）、Hugging Face 名称（如 Qwen/Qwen2-7B）或本地文件"
    "夹",
    "an empty name": "名称为空",
    "control or invisible characters in the name": "名称中有控制字符或不可见字符",
    "a name of {n} characters": "名称有 {n} 个字符",
    "{name}, which climbs out of its folder": "{name} 越出了所在文件夹",
    "give a folder by its absolute path and a Hub model by its id, owner/name": "文件夹用绝对路径，Hub 模型用 "
    "owner/name 形式的名称",
    "one of the bundled models: {names}": "自带模型之一：{names}",
    "no model {name}": "没有模型 {name}",
    "no folder {folder}": "没有文件夹 {folder}",
    "use one of these names; if the folder is missing, "
    "restore it with: git checkout kvlab/demo": "使用其中一个名称；若文件夹缺失，用以下命令恢复：git checkout "
    "kvlab/demo",
    "a folder with a model": "含有模型的文件夹",
    "check the spelling, or give {forms}": "检查拼写，或给出{forms}",
    # the Hub
    "access to {name}": "{name} 的访问权限",
    "a gated model: its owner asks for a licence to be accepted": "受限模型：其所有者要求先接受许可协议",
    "accept the licence at {address}, then log in here: hf auth login": "在 {address} 接受许可协议，然后在本机登录："
    "hf auth login",
    "no model {name} on the Hugging Face Hub, nor a folder of that name here": "Hugging Face Hub 上没有模型 {name}，本"
    "机也没有这个名称的文件夹",
    "check the spelling; for a private model log in first: hf auth login": "检查拼写；私有模型请先登录：hf auth login",
    "config": "配置",
    "weights": "权重",
    "tokenizer": "分词器",
    "{part} of {name} downloaded to {folder}": "将 {name} 的{part}下载到 {folder}",
    "check free space and permissions there, or set HF_HOME to another disk": "检查该处的剩余空间和权限，或将 HF_HOME "
    "设到另一个磁盘",
    "{part} of {name} in the local cache {folder}, or the Hub in reach": "{name} 的{part}在本地缓存 {folder} 中，或 "
    "Hub 可达",
    "neither: {error}": "两者皆无：{error}",
    "neither: {error} (HTTP {status})": "两者皆无：{error}（HTTP {status}）",
    "on a machine with network run: hf download {name} and copy the cache here, or give a local folder; the demo "
    "models need no network": "在有网络的机器上运行 hf download {name}，再将缓存复制到本机，或给出本地文件夹；演示模型"
    "不需要网络",
    # files
    "a readable model at {name}": "位于 {name} 的可读模型",
    "fetch the files again, a half-finished download is the usual cause: {how}": "重新获取文件，最常见的原因是下载未完"
    "成：{how}",
    "copy the folder from where it came": "从来源重新复制文件夹",
    "an adapter without its base model (adapter_config.json); merge "
    "it and save it first": "只有适配器而没有基座模型（adapter_config.json）；请先合并并保存",
    "no config.json among {n} files": "{n} 个文件中没有 config.json",
    "an unreadable model.safetensors.index.json ({error})": "model.safetensors.index.json 无法读取（{error}）",
    "{n} of {total} weight files missing ({first}, ...)": "{total} 个权重文件中缺少 {n} 个（{first} 等）",
    "a config.json that is not JSON: {error}": "config.json 不是 JSON：{error}",
    "a config.json without model_type": "config.json 中没有 model_type",
    "a config.json that transformers refuses: {error}": "transformers 拒绝了 config.json：{error}",
    "weights that do not load: {error}": "权重无法加载：{error}",
    "weights without {n} of the model's tensors ({first}, ...)": "权重中缺少模型的 {n} 个张量（{first} 等）",
    "weights of {name} as {single}, or in parts with {index}": "{name} 的权重为 {single}，或分片并带有 {index}",
    "only {files}": "只有 {files}",
    "no weight files": "没有权重文件",
    "other formats are refused, because pickles can run code when read; convert the weights once on a machine you "
    "trust: {command} and copy the tokenizer files": "不接受其他格式，因为读取 pickle 时可能执行代码；请在可信的机器上"
    "转换一次权重：{command}，并复制分词器文件",
    "put the weights beside config.json, or give the folder that has them": "将权重放在 config.json 旁边，或给出权重所"
    "在的文件夹",
    # architectures
    "every package that {name} needs": "{name} 所需的全部软件包",
    "install the package that is named, in the environment that runs kvlab": "在运行 kvlab 的环境中安装所指的软件包",
    "{name} to keep a cache of keys and values": "{name} 保存键与值的缓存",
    "the architecture {kind}, which keeps none (no causal "
    "attention, or a recurrent state)": "架构 {kind} 不保存（没有因果注意力，或使用循环状态）",
    "choose a causal attention model, such as Llama, Qwen, Gemma, Mistral or GPT-2": "选择因果注意力模型，如 Llama、"
    "Qwen、Gemma、Mistral 或 GPT-2",
    "{name} to be a decoder-only language model": "{name} 为仅解码器语言模型",
    "an encoder-decoder ({kind}): its decoder's cache depends on a second input": "编码器-解码器（{kind}）：其解码器的"
    "缓存依赖第二个输入",
    "choose a decoder-only model; pairs with an encoder are out of scope": "选择仅解码器模型；不支持带编码器的模型",
    "{name} to be a causal language model": "{name} 为因果语言模型",
    "the architecture {kind}, for which transformers has no causal language model": "架构 {kind} 在 transformers 中没"
    "有因果语言模型",
    "choose a model for text generation": "选择文本生成模型",
    "{name} to be of an architecture that transformers contains": "{name} 的架构包含在 transformers 中",
    "{kind}, defined by program files in the model's repository": "{kind}，由模型仓库中的程序文件定义",
    "code from model repositories is never run here; choose a version of the model that transformers supports (often "
    "named ...-hf)": "这里从不运行模型仓库中的代码；请选择 transformers 支持的模型版本（名称常为 ...-hf）",
    "{name} to be of an architecture that the installed transformers knows": "{name} 的架构为已安装的 transformers 所"
    "支持",
    "it may be newer than the installed version: pip install --upgrade transformers": "它可能比已安装的版本更新：pip "
    "install --upgrade transformers",
    # tokenizers
    "a tokenizer of {name} (tokenizer.json and tokenizer_config.json)": "{name} 的分词器（tokenizer.json 与 "
    "tokenizer_config.json）",
    "put the tokenizer files of the model it was trained from into {folder}": "将其原模型的分词器文件放入 {folder}",
    "a fast tokenizer of {name}, which tells where in the text each token lies": "{name} 的快速分词器，能给出每个词元"
    "在文本中的位置",
    "{kind}, which does not": "{kind} 不能给出",
    "convert it to a tokenizer.json once (tokenizers' converters, or the model's -hf version) and put that file into "
    "{folder}": "将其转换一次为 tokenizer.json（用 tokenizers 的转换器，或取模型的 -hf 版本），并放入 {folder}",
    # chats
    "a chat template of {name}": "{name} 的对话模板",
    "none in its tokenizer files (a base model, not a chat model)": "分词器文件中没有（是基座模型，不是对话模型）",
    "align the plain text: leave out --chat": "按纯文本对齐：不使用 --chat",
    "a chat template of {name} that renders a user's and an assistant's message": "{name} 的对话模板能渲染用户消息和助"
    "手消息",
    "align the plain text (leave out --chat), or mend "
    "chat_template in the tokenizer's files": "按纯文本对齐（不使用 --chat），或修复分词器文件中的 chat_template",
    "each message once and unchanged in the chat that {name} renders": "{name} 渲染的对话中每条消息原样出现一次",
    "a message that appears {n} times": "一条消息出现了 {n} 次",
    "a message that the template changes or cuts out of": "一条消息被模板改动或截去一部分",
    "align the plain text (leave out --chat), or take tags such "
    "as </think> out of the prompts": "按纯文本对齐（不使用 --chat），或从提示中去掉 </think> 之类的标签",
    # devices and memory
    "a device: auto, cpu, cuda, or cuda:N with N the number of a GPU of this machine": "设备：auto、cpu、cuda 或 "
    "cuda:N（N 为本机 GPU 的编号）",
    "{device} with {n} NVIDIA GPUs on this machine": "{device}，本机有 {n} 个 NVIDIA GPU",
    "use auto, or look at what there is: python -m kvlab doctor": "使用 auto，或查看可用设备：python -m kvlab doctor",
    "a number type: auto, {names}": "数值类型：auto, {names}",
    "use auto": "使用 auto",
    "{size} of free memory on {device} for the weights of {name}": "{device} 上有 {size} 空闲内存用于 {name} 的权重",
    "{name} with random weights": "{name}（随机权重）",
    "{size} free": "空闲 {size}",
    "close what else uses the device, choose --dtype bfloat16, a "
    "smaller model or another device": "关闭占用该设备的其他程序，选择 --dtype bfloat16、更小的模型或其他设备",
    # caches
    "a cache of all {n} tokens in every layer of {name}": "{name} 的每一层都缓存全部 {n} 个词元",
    "layers with {counts} tokens": "各层缓存了 {counts} 个词元",
    "choose a model whose layers cache every token": "选择各层都缓存全部词元的模型",
    "attention probabilities from layer {layer} of {name}": "{name} 第 {layer} 层的注意力概率",
    "an architecture ({kind}) whose layers do not hand them out": "架构（{kind}）的各层不输出注意力概率",
    "choose a time rule that needs no attention, such as --time floor": "选择不需要注意力的时间规则，如 --time floor",
    "attention layers whose rotation of the keys (RoPE) can be undone": "可以撤销键旋转（RoPE）的注意力层",
    "in layer {layer} of {name} ({kind}) keys that still depend on the position: the same tokens, read at another "
    "one, differ by {error} of their size": "{name}（{kind}）第 {layer} 层的键仍依赖位置：相同的词元在另一位置读取时相"
    "差其大小的 {error}",
    "align the keys as they are cached: --keys post-rope": "按缓存原样对齐键：--keys post-rope",
    # the self-test of the rotation
    "RoPE undone in {n} of {total} layers ({how}), largest "
    "difference between two positions {error}": "{total} 层中有 {n} 层已撤销 RoPE（{how}），两个位置之间的最大差异为 "
    "{error}",
    "{layout} layout, {n} channels": "{layout} 布局，{n} 个通道",
    "{how} and {layout} layout, {n} channels": "{how}；{layout} 布局，{n} 个通道",
    "{how}, scaled by {scale}": "{how}，缩放 {scale}",
    "1 layer without RoPE": "1 层没有 RoPE",
    "{n} layers without RoPE": "{n} 层没有 RoPE",
    "positions are part of keys and values in 1 layer": "1 层的键与值包含位置信息",
    "positions are part of keys and values in {n} layers": "{n} 层的键与值包含位置信息",
    "latent attention: the cache holds a latent and a rotary key part": "潜在注意力：缓存保存潜在向量和带旋转的键部分",
}
