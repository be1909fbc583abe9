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
    "The budget for swaps was used up: whole layers were replaced on {done} of {all} documents.": (
        "替换的预算已用完：仅在 {all} 篇文档中的 {done} 篇上逐层替换。"
    ),
    "The budget for swaps was used up: single heads were replaced on {done} of {all} documents.": "替换的预算已用完：仅在 {all} 篇文档中的 {done} 篇上逐头替换。",
    "No judged document has a prompt and something behind it, so none was continued greedily.": "没有被评判的文档带有提示及其后续内容，因此未做贪心续写。",
    "No error of the heads' outputs: {found}.": "没有头输出误差：{found}。",
    "No control by random weights: {found}": "没有随机权重对照：{found}",
    # Phases, split.
    "continuing from replaced caches": "从替换后的缓存续写",
    "replacing single heads": "逐头替换",
    "greedy continuations": "贪心续写",
    "by document: no judged text was fitted on": "按文档：被评判的文本均未参与拟合",
}
