"""The functional test: its sentence, variants and notes."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "own cache": "自身缓存",
    "projected cache": "投影缓存",
    "mean cache": "均值缓存",
    "shuffled cache": "打乱缓存",
    "token identity alone": "仅词元身份",
    "random-weights teacher": "随机权重教师",
    "no prefix": "无前缀",
    "Nothing is reported: the own cache of {student}, injected, does not reproduce its logits (they differ by {difference:.1e} of the largest logit, {tolerance:.0e} is allowed).": "不报告任何结果：注入 {student} 的自身缓存未能重现其 logits（相差最大 logit 的 {difference:.1e}，允许 {tolerance:.0e}）。",
    "{student} on the projected cache of {teachers}: KL {kl:.3f} ± {kl_se:.3f} and ΔCE {ce:+.3f} ± {ce_se:.3f} nats per token against its own cache (KL of the controls: {controls}; the own cache differs from the plain forward by {difference:.0e} of the largest logit); n = {n:,} continuation tokens of {documents} documents, held out from the fit on {fitted} others.": "{student} 使用 {teachers} 的投影缓存：与自身缓存相比，每词元 KL {kl:.3f} ± {kl_se:.3f}、ΔCE {ce:+.3f} ± {ce_se:.3f} nat（对照的 KL：{controls}；自身缓存与普通前向相差最大 logit 的 {difference:.0e}）；n = {n:,} 个续写词元，来自 {documents} 篇留出文档，映射在另外 {fitted} 篇上拟合。",
}

MESSAGES: dict[str, str] = {
    "{share} of the prefix' tokens are replaced; special tokens, the first {sinks} content tokens and tokens without a teacher step keep the student's own keys and values.": "前缀中 {share} 的词元被替换；特殊词元、前 {sinks} 个内容词元以及没有对应教师步的词元保留学生自身的 K 和 V。",
    "Offline diagnostic: the {rule} rule was evaluated on the prefix alone, so it knows nothing of the continuation, but within the prefix it may look ahead.": "离线诊断：{rule} 规则只在前缀内计算，因此不知道续写内容，但在前缀内可能前视。",
    "Only {n} documents are judged: standard errors are rough.": "仅评判 {n} 篇文档：标准误较粗略。",
    "{n} judged documents are too short for the prefix and were left out.": "{n} 篇被评判的文档对该前缀来说太短，已略去。",
    "Heads were replaced one by one in the {n} layers that cost most: {named}.": "仅在代价最大的 {n} 层中逐头替换：{named}。",
    "The budget for swaps was used up: single heads were replaced on {done} of {all} documents.": "替换的预算已用完：仅在 {all} 篇文档中的 {done} 篇上逐头替换。",
    "No judged document has a prompt and something behind it, so none was continued greedily.": "没有被评判的文档带有提示及其后续内容，因此未做贪心续写。",
    "No error of the heads' outputs: {found}.": "没有头输出误差：{found}。",
    "No control by random weights: {found}": "没有随机权重对照：{found}",
    # Phases, split.
    "continuing from replaced caches": "从替换后的缓存续写",
    "replacing single heads": "逐头替换",
    "greedy continuations": "贪心续写",
    "by document: no judged text was fitted on": "按文档：被评判的文本均未参与拟合",
    # Refusals.
    "a cache of keys and values, from which a head's output follows": "由 K 和 V 组成、可从中算出头输出的缓存",
    "a latent cache in {name}": "{name} 的缓存是潜在表示",
    "read the injection: it does not need the heads' outputs": "请看注入结果：它不需要头输出",
    "a causal time rule ({rules}), by which the teacher has read no more than the student": "因果的时间规则（{rules}），即教师读到的不多于学生",
    "{rule}, which chooses steps by what the end of the text looks at: a good continuation could then be told in advance": "{rule}，它按文本末尾所注意的内容选择步：续写可能因此事先得知后文",
    "{rule}, which looks ahead: a good continuation could then be told in advance": "{rule}，它会前视：续写可能因此事先得知后文",
    "choose --time floor": "请选择 --time floor",
    "at least two documents to fit the map on, besides those it is judged on": "除被评判的文档外，至少还有两篇文档用于拟合映射",
    "tokens that a map can be fitted on: after the sinks, read alike by both models": "可用于拟合映射的词元：位于汇聚词元之后，且两个模型读法相同",
    "fewer than {n}, rule {rule}, {sinks} sinks": "少于 {n} 个，规则 {rule}，{sinks} 个汇聚词元",
    "add longer prompts, or also fit on the bundled samples (--calibration samples)": "请加入更长的提示，或同时在自带样例上拟合（--calibration samples）",
    "judged documents whose prefix of {share} has tokens to replace, after {sinks} sinks": "被评判的文档在 {share} 的前缀中、{sinks} 个汇聚词元之后有可替换的词元",
    "use longer prompts, a larger --prefix, or fewer --sinks": "请使用更长的提示、更大的 --prefix 或更小的 --sinks",
    "a student whose layers carry keys and values from token to token, and nothing else": "各层在词元之间只传递 K 和 V 的学生",
    "{name} ({architecture}), which also keeps {others}: such a state may hold the prefix too, so a projected cache beside it would prove nothing": "{name}（{architecture}）还保存 {others}：这类状态也可能含有前缀，因此旁边的投影缓存不能说明任何问题",
    "a cache of its own": "自己的一种缓存",
    "choose a student of pure attention; `align` compares the caches of this one": "请选择纯注意力的学生；该模型的缓存可用 `align` 比较",
    "injection.json as written by kvlab, format {n}": "由 kvlab 写出的 injection.json（格式 {n}）",
    "run the functional test again": "请重新运行功能测试",
}
