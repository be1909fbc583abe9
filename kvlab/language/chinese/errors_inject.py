"""What the functional test, which puts a projected cache into the student, says of what it cannot do."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    "a cache of keys and values, from which a head's output follows": "键与值的缓存，由它可得出头的输出",
    "a latent cache in {name}": "{name} 中是潜在缓存",
    "read the injection: it does not need the heads' outputs": "请看注入结果：它不需要各头的输出",
    "a causal time rule ({rules}), by which the teacher has read no more than the student": "因果时间规则（{rules}），使教师读到的不多于学生",
    "{rule}, which chooses steps by what the end of the text looks at: a good continuation could then be told in advance": "{rule} 按文本末尾所关注的内容选择步：好的续写可能因此被提前透露",
    "{rule}, which looks ahead: a good continuation could then be told in advance": "{rule} 会前视：好的续写可能因此被提前透露",
    "choose --time floor": "选择 --time floor",
    "at least two documents to fit the map on, besides those it is judged on": "除评判用的文档外，至少两篇文档用于拟合映射",
    "tokens that a map can be fitted on: after the sinks, read alike by both models": "可用于拟合映射的词元：在 sinks 之后，且两个模型读法相同",
    "fewer than {n}, rule {rule}, {m} sinks": "不足 {n} 个，规则 {rule}，{m} 个 sinks",
    "tokens that all teachers and the student read alike, to fuse the teachers on": "所有教师与学生读法都相同的词元，用于融合教师",
    "none, rule {rule}, {m} sinks": "没有，规则 {rule}，{m} 个 sinks",
    "add longer prompts, or test one teacher at a time": "增加更长的提示，或每次只测试一个教师",
    "add longer prompts, or also fit on the bundled samples (--calibration samples)": "增加更长的提示，或同时用自带样例拟合（--calibration samples）",
    "judged documents whose prefix of {n} has tokens to replace, after {m} sinks": "评判用的文档，其长 {n} 的前缀在 {m} 个 sinks 之后有可替换的词元",
    "use longer prompts, a larger --prefix, or fewer --sinks": "使用更长的提示、更大的 --prefix 或更少的 --sinks",
    "a student whose layers carry keys and values from token to token, and nothing else": "各层在词元之间只传递键与值的学生",
    "{name} ({kind}), which also keeps {state}: such a state may hold the prefix too, so a projected cache beside it would prove nothing": "{name}（{kind}）还保存 {state}：这种状态也可能含有前缀，旁边的投影缓存因此不能证明什么",
    "a cache of its own": "自己的缓存",
    "choose a student of pure attention; `align` compares the caches of this one": "选择纯注意力的学生；`align` 可比较此学生的缓存",
    "{file} as written by kvlab, format {version}": "由 kvlab 写出的 {file}，格式 {version}",
    "run the functional test again": "重新运行功能测试",
}
