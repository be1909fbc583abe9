"""What an analysis says: why it cannot be computed, what to beware of (notes), and what it is doing (phases)."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # phases
    "starting": "启动",
    "loading {name}": "加载 {name}",
    "reading caches": "读取缓存",
    "comparing layers": "比较各层",
    "measuring controls": "测量对照",
    "reading with random weights": "用随机权重读取",
    "fitting on random weights": "在随机权重上拟合",
    "fusing teachers": "融合教师",
    "fitting and scoring heads": "拟合并评分各头",
    "reading documents token by token": "逐词元读取文档",
    "writing results": "写出结果",
    # notes of reading
    "{n} of {total} documents have no tokens and were left out: {names}": "{total} 篇文档中有 {n} 篇没有词元，已略去："
    "{names}",
    "{n} of {total} documents were longer than {limit} tokens and were cut: {names}": "{total} 篇文档中有 {n} 篇超过 "
    "{limit} 个词元，已截断：{names}",
    "{teacher} teacher or {student} student": "教师 {teacher} 或学生 {student}",
    "In {n} of {total} documents a tokenizer changes the text (normalisation), so byte borders come from character "
    "offsets: {names}": "{total} 篇文档中有 {n} 篇的文本被分词器改动（规范化），因此字节边界由字符偏移得出：{names}",
    "{n} of {total} documents were left out, because a chat "
    "template changes what they say: {names}": "{total} 篇文档中有 {n} 篇已略去，因为对话模板改动了其内容：{names}",
    "{n} of {total} documents repeat the text of another; those of "
    "one text are held out together.": "{total} 篇文档中有 {n} 篇与另一篇文本相同；文本相同的文档一起留出。",
    # notes of the outcome
    "{n} of {total} heads do not vary on these prompts and have no score.": "{total} 个头中有 {n} 个在这些提示上不变化"
    "，没有得分。",
    "Only {n} tokens are scored: differences of some points may be chance.": "只有 {n} 个词元参与评分：几个百分点的差"
    "异可能出于偶然。",
    "Only {n} fitted rows per feature ({wanted} are wanted): the scores are likely lower than with more prompts. Add "
    "prompts, or also fit on the bundled samples.": "每个特征只有 {n} 行用于拟合（应有 {wanted} 行）：得分可能低于提示"
    "更多时。请增加提示，或同时用自带样例拟合。",
    "With two folds no penalty can be cross-validated: a cautious fixed one is used.": "只有两折时无法交叉验证惩罚系数"
    "：使用保守的固定值。",
    "With two folds no layers can be chosen on held-out "
    "folds: proportional depth is used.": "只有两折时无法在留出折上选择层：按深度比例选层。",
    "The {rule} rule keeps other teacher steps for each head and sets them side by side with the student's in order; "
    "it is fitted on the rows that this gives.": "{rule} 规则为每个头保留不同的教师步，并按顺序与学生步并列；在由此得"
    "到的行上拟合。",
    "The {rule} rule does not look at the text; it is fitted on the rows it gives.": "{rule} 规则不看文本；在它给出的"
    "行上拟合。",
    "The {rule} rule looks ahead: the teacher may have read "
    "bytes that the student has not.": "{rule} 规则会前视：教师可能已读到学生尚未读到的字节。",
    "No control by random weights of {name}: {error}": "{name} 没有随机权重对照：{error}",
    "Continued: {n} batches had been read before an interruption.": "继续运行：中断前已读取 {n} 批。",
    # errors
    "finite {kind}s": "{kind}均为有限值",
    "key": "键",
    "value": "值",
    "NaN or Inf in the {kind}s of layer {layer}, KV head {head} of {name}": "{name} 第 {layer} 层 KV 头 {head} 的"
    "{kind}中有 NaN 或 Inf",
    "load the model in float32 or bfloat16 (--dtype), or check its weights": "以 float32 或 bfloat16 加载模型（--dtype"
    "），或检查其权重",
    "at least one KV head and one channel on both sides": "两侧都至少有一个 KV 头和一个通道",
    "count num_key_value_heads of both configurations, not the query heads": "取两份配置中的 num_key_value_heads，而不"
    "是查询头数",
    "[batch, {heads} KV heads, time, head width {width}]": "[批, {heads} 个 KV 头, 时间, 头宽 {width}]",
    "shape {shape}": "形状 {shape}",
    "build KVProjector with the teacher's num_key_value_heads and head width": "用教师的 num_key_value_heads 与头宽构"
    "造 KVProjector",
    "tokens after the first {n} of a prompt that both models have "
    "read alike, in at least two documents": "至少两篇文档中，每条提示前 {n} 个词元之后有两个模型读到相同文本的词元",
    "{fitted} rows to fit and {scored} to score in {documents} documents, rule {rule}": "{documents} 篇文档中有 "
    "{fitted} 行可拟合、{scored} 行可评分，规则 {rule}",
    "use more or longer prompts, a smaller --sinks, or also fit on the bundled samples": "使用更多或更长的提示、更小的"
    " --sinks，或同时用自带样例拟合",
    "tokens that end at the same byte in both models, to fit a map on": "在两个模型中结束于同一字节、可用于拟合映射的"
    "词元",
    "none among {n} tokens that have a teacher step, rule {rule}": "{n} 个有教师步的词元中没有，规则 {rule}",
    "choose a rule that does not need them (--time linear "
    "or nearest), or other prompts": "选择不需要它们的规则（--time linear 或 nearest），或换用其他提示",
    "at least one prompt": "至少一条提示",
    "paste or upload prompts, or take the bundled samples": "粘贴或上传提示，或使用自带样例",
    "at least two documents of different text, so that one can be held out": "至少两篇文本不同的文档，以便留出一篇",
    "a single document and no calibration documents": "只有一篇文档，且没有校准文档",
    "{n} documents of the same text": "{n} 篇文档文本相同",
    "add prompts, or also fit on the bundled samples (--calibration samples)": "增加提示，或同时用自带样例拟合（"
    "--calibration samples）",
    "a prompt with at least one token for every model": "对每个模型都至少有一个词元的提示",
    "none in {n} prompts, with at most {limit} tokens": "{n} 条提示中没有，词元上限为{limit}",
    "use longer prompts, or a larger --max-tokens": "使用更长的提示，或更大的 --max-tokens",
    "keys and values of one length": "长度相同的键与值",
    "keys with T={keys} and values with T={values}": "键 T={keys}，值 T={values}",
    "pass the keys and values of the same cache layer": "传入同一缓存层的键与值",
    "lengths of 0 or more steps": "长度不小于 0 步",
    "pass the lengths of the two timelines": "传入两条时间线的长度",
    "keys and attention of the document's {n} teacher tokens": "该文档 {n} 个教师词元的键与注意力",
    "keys of {keys} and attention of {attention} steps": "键有 {keys} 步，注意力有 {attention} 步",
    "pass one document without its padding": "传入一篇不含填充的文档",
    "teacher layers {layers} of one head width, which this projector projects as one": "教师层 {layers} 的头宽相同，该"
    "投影器将它们作为整体投影",
    "widths {widths} in {name}": "{name} 的头宽为 {widths}",
    "choose the ridge projector, or --layers depth": "选择 ridge 投影器，或 --layers depth",
    "a teacher timeline of {n} steps": "{n} 步的教师时间线",
    "a tensor of shape {shape}": "形状为 {shape} 的张量",
    "build the map from the tokens of the same document": "用同一篇文档的词元构造映射",
    "{json} and {arrays} as written by kvlab {version}.x": "由 kvlab {version}.x 写出的 {json} 与 {arrays}",
    "another format version": "格式版本不同",
    "run the analysis again; its settings are in config.yaml": "重新运行分析；其设置在 config.yaml 中",
    "a readable {file} in {folder}": "{folder} 中可读的 {file}",
    "launch the analysis again from its page or command": "从其页面或命令重新启动分析",
    "launch the run again from its page or command": "从其页面或命令重新启动运行",
    "a folder that can be written: --out {folder}": "可写的文件夹：--out {folder}",
    "choose another folder, or free space": "选择其他文件夹，或释放空间",
}
