"""The functional test: its page, figures, tables and report."""

from __future__ import annotations

WORDS: dict[str, str] = {
    # figures
    "KL from the own cache, nats per token": "相对自身缓存的 KL（每词元 nat）",
    "ΔCE from the own cache, nats per token": "相对自身缓存的 ΔCE（每词元 nat）",
    "%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} documents": (
        "%{customdata[0]}：%{customdata[1]}，n = %{customdata[2]} 篇文档"
    ),
    "%{customdata[0]}: %{customdata[1]}, n = %{customdata[2]} tokens": (
        "%{customdata[0]}：%{customdata[1]}，n = %{customdata[2]} 个词元"
    ),
    "share of right answers": "正确答案的比例",
    "share of the document handed over": "交给学生的文档比例",
    "{measure}, nats per token": "{measure}（每词元 nat）",
    "{name}, prefix %{{x:.0%}}<br>%{{y:.3f}} ± %{{customdata[0]:.3f}}, n = %{{customdata[1]:,}} tokens": (
        "{name}，前缀 %{{x:.0%}}<br>%{{y:.3f}} ± %{{customdata[0]:.3f}}，n = %{{customdata[1]:,}} 个词元"
    ),
    "K and V": "K 与 V",
    "{part} projection error, held out": "{part} 投影误差（留出）",
    "{part} attention-output error, held out": "{part} 注意力输出误差（留出）",
    "{part} swap damage, KL": "{part} 替换损害（KL）",
    "{part} swap damage, ΔCE": "{part} 替换损害（ΔCE）",
    "{part} layer {layer}, head {head}": "{part} 层 {layer}，头 {head}",
    "projection error": "投影误差",
    "attention-output error": "注意力输出误差",
    "n = {n:,}": "n = {n:,}",
    "not measured": "未测量",
    "{part}, projected": "{part}，投影",
    "{part}, its mean": "{part}，均值",
    "{error}, RSS / TSS": "{error}（RSS / TSS）",
    "error<br>RSS / TSS": "误差<br>RSS / TSS",
    "nats<br>per token": "每词元<br>nat",
    "{part} layer %{{customdata[0]}}, head %{{customdata[1]}}<br>error %{{x:.3f}}, damage %{{y:.4f}}": (
        "{part} 层 %{{customdata[0]}}，头 %{{customdata[1]}}<br>误差 %{{x:.3f}}，损害 %{{y:.4f}}"
    ),
    "{words}, layer %{{x}}: %{{y:.4f}} nats per token": "{words}，层 %{{x}}：每词元 %{{y:.4f}} nat",
    # sentences
    "KL = KL(own ‖ variant) of the next-token distributions and ΔCE = cross-entropy less that with the student’s own "
    "cache, both in nats per token of the continuation: 0 is as good as its own cache. A variant replaces the keys and "
    "values of the prefix; ± is one jackknife standard error over documents.": (
        "KL = KL(自身 ‖ 变体)，取自下一词元的分布；ΔCE = 交叉熵减去使用学生自身缓存时的交叉熵；两者均为续写部分每词元 nat："
        "0 表示与自身缓存一样好。变体替换前缀的键与值；± 为按文档的刀切法标准误。"
    ),
    "Swap damage: the KL of the continuation when the projected part of one head, or of one layer, is handed over and "
    "nothing else; 0 is no damage. Its control hands over the training mean instead.": (
        "替换损害：只把一个头（或一层）换成投影结果、其余不变时续写部分的 KL；0 表示无损害。其对照改用训练均值。"
    ),
    "Attention-output error = RSS / TSS of the head’s output under the student’s own queries: 0 the same output, 1 no "
    "better than its mean.": (
        "注意力输出误差 = 学生自身查询下该头输出的 RSS / TSS：0 表示输出相同，1 表示不优于其均值。"
    ),
    "From {least:.0%} to {most:.0%} of the document, the KL of the projected cache goes from {first:.3f} ± "
    "{first_se:.3f} to {last:.3f} ± {last_se:.3f} nats per token (n = {n:,} and {other:,} tokens: what is left of "
    "each document).": (
        "前缀由文档的 {least:.0%} 增至 {most:.0%} 时，投影缓存的 KL 由每词元 {first:.3f} ± {first_se:.3f} nat 变为 "
        "{last:.3f} ± {last_se:.3f} nat（n = {n:,} 与 {other:,} 个词元：每篇文档余下的部分）。"
    ),
    "Layer {layer} costs most when its K and V alone are handed over: KL {kl:.3f} ± {se:.3f} (its training mean "
    "instead: {mean:.3f} ± {mean_se:.3f}; n = {n:,} tokens of {documents} documents).": (
        "只替换一层的 K 与 V 时，层 {layer} 的代价最大：KL {kl:.3f} ± {se:.3f}（改用训练均值：{mean:.3f} ± {mean_se:.3f}；"
        "n = {documents} 篇文档的 {n:,} 个词元）。"
    ),
    "Spearman’s ρ of {error} with the {damage} of a swap: {parts}; 1 would mean that the error ranks the heads as "
    "their damage does, 0 that it says nothing about it. By chance alone {fewest} heads come to ±{chance:.2f} in one "
    "of 20 cases.": (
        "{error}与替换的 {damage} 的 Spearman ρ：{parts}；1 表示误差对各头的排序与损害一致，0 表示误差与损害无关。"
        "{fewest} 个头仅凭偶然，20 次中有一次达到 ±{chance:.2f}。"
    ),
    "{kind} of this head: {parts}.": "该头的 {kind}：{parts}。",
    "Right answers: {projected:.1%} on the projected cache, {own:.1%} on its own; {same:.0%} of its own "
    "continuation come before the first differing token (n = {n} held-out documents: too few for standard "
    "errors).": (
        "答对的比例：投影缓存 {projected:.1%}，自身缓存 {own:.1%}；首个不同词元之前占自身续写的 {same:.0%}"
        "（n = {n} 篇留出文档：太少，没有标准误）。"
    ),
    "Right answers: {projected:.1%} ± {se:.1%} on the projected cache, {own:.1%} ± {own_se:.1%} on its own: a "
    "difference of {less:+.1%} ± {less_se:.1%} is within two standard errors; {same:.0%} of its own continuation "
    "come before the first differing token (n = {n} held-out documents).": (
        "答对的比例：投影缓存 {projected:.1%} ± {se:.1%}，自身缓存 {own:.1%} ± {own_se:.1%}：相差 {less:+.1%} ± {less_se:.1%}，"
        "在两个标准误之内；首个不同词元之前占自身续写的 {same:.0%}（n = {n} 篇留出文档）。"
    ),
    "Right answers: {projected:.1%} ± {se:.1%} on the projected cache, {own:.1%} ± {own_se:.1%} on its own, a "
    "difference of {less:+.1%} ± {less_se:.1%}; {same:.0%} of its own continuation come before the first "
    "differing token (n = {n} held-out documents).": (
        "答对的比例：投影缓存 {projected:.1%} ± {se:.1%}，自身缓存 {own:.1%} ± {own_se:.1%}，相差 {less:+.1%} ± {less_se:.1%}；"
        "首个不同词元之前占自身续写的 {same:.0%}（n = {n} 篇留出文档）。"
    ),
    "With {share:.0%} of each document handed over, the projected cache is {kl:.3f} nats from the own cache (n = "
    "{n:,} tokens of {documents} held-out documents). Fewer than three documents give no standard error: whether "
    "it beats its controls is not known.": (
        "交给学生每篇文档的 {share:.0%} 时，投影缓存与自身缓存相差 {kl:.3f} nat（n = {documents} 篇留出文档的 {n:,} 个词元）。"
        "不足三篇文档没有标准误：是否优于对照尚不可知。"
    ),
    "With {share:.0%} of each document handed over, the projected cache beats every control by more than two "
    "standard errors ({yes}); it is {kl:.3f} ± {se:.3f} nats from the own cache (n = {n:,} tokens of "
    "{documents} held-out documents).": (
        "交给学生每篇文档的 {share:.0%} 时，投影缓存优于每个对照且超过两个标准误（{yes}）；它与自身缓存相差 "
        "{kl:.3f} ± {se:.3f} nat（n = {documents} 篇留出文档的 {n:,} 个词元）。"
    ),
    "With {share:.0%} of each document handed over, the projected cache beats {yes} by more than two standard "
    "errors, but not {no}; it is {kl:.3f} ± {se:.3f} nats from the own cache (n = {n:,} tokens of {documents} "
    "held-out documents).": (
        "交给学生每篇文档的 {share:.0%} 时，投影缓存优于{yes}且超过两个标准误，但不优于{no}；它与自身缓存相差 "
        "{kl:.3f} ± {se:.3f} nat（n = {documents} 篇留出文档的 {n:,} 个词元）。"
    ),
    "With {share:.0%} of each document handed over, the projected cache beats no control by more than two "
    "standard errors ({no}): nothing shows that the student can use it (KL {kl:.3f} ± {se:.3f}, n = {n:,} "
    "tokens of {documents} held-out documents).": (
        "交给学生每篇文档的 {share:.0%} 时，投影缓存没有以超过两个标准误优于任何对照（{no}）：没有迹象表明学生能使用它"
        "（KL {kl:.3f} ± {se:.3f}，n = {documents} 篇留出文档的 {n:,} 个词元）。"
    ),
    "No rank correlation: too few heads were swapped one by one.": "没有秩相关：逐个替换的头太少。",
    "both together": "两者合计",
    "{kind} {rho:+.2f} ({n} heads)": "{kind} {rho:+.2f}（{n} 个头）",
    "Nothing was measured of this head.": "该头没有测量结果。",
    "projection error {error:.3f} ± {se:.3f} (n = {n:,} rows)": "投影误差 {error:.3f} ± {se:.3f}（n = {n:,} 行）",
    "attention-output error {error:.3f} ± {se:.3f} (n = {n:,} queries)": (
        "注意力输出误差 {error:.3f} ± {se:.3f}（n = {n:,} 个查询）"
    ),
    "swap damage KL {kl:.4f} ± {kl_se:.4f} beside {kl_mean:.4f} of its mean (n = {n:,} tokens)": (
        "替换损害 KL {kl:.4f} ± {kl_se:.4f}，改用均值为 {kl_mean:.4f}（n = {n:,} 个词元）"
    ),
    # tables
    "documents judged": "评判的文档数",
    "documents fitted on": "拟合所用文档数",
    "rows fitted": "拟合行数",
    "offline diagnostic": "离线诊断",
    "share of the prefix replaced": "前缀中被替换的比例",
    "forwards of swaps": "替换所用前向次数",
    "fitting, s": "拟合（秒）",
    "swaps of layers, s": "逐层替换（秒）",
    "injecting, s": "注入（秒）",
    "swaps of heads, forecast, s": "逐头替换预计（秒）",
    "swaps of heads, s": "逐头替换（秒）",
    "texts, s": "续写（秒）",
    "variant": "变体",
    "prefix": "前缀",
    "± s.e. of KL": "± KL 标准误",
    "± s.e. of ΔCE": "± ΔCE 标准误",
    "same most likely token": "最可能词元相同",
    "KL over projected": "比投影多的 KL",
    "± s.e. of that KL": "± 该 KL 之差的标准误",
    "CE over projected": "比投影多的 CE",
    "± s.e. of that CE": "± 该 CE 之差的标准误",
    "n": "n",
    "replaced": "替换部分",
    "± s.e. of this error": "± 该误差的标准误",
    "KL of its mean": "改用均值的 KL",
    "± s.e. of mean KL": "± 均值 KL 标准误",
    "ΔCE of its mean": "改用均值的 ΔCE",
    "± s.e. of mean ΔCE": "± 均值 ΔCE 标准误",
    "answers right": "答对",
    "less own cache": "减去自身缓存",
    "± s.e. of difference": "± 差的标准误",
    "same tokens before the first difference": "首个差异之前相同的词元",
    "measure": "度量",
    "damage": "损害",
    "Spearman’s ρ": "Spearman ρ",
    "heads": "头数",
    "KL of the attention distribution": "注意力分布的 KL",
    "swap damage KL": "替换损害 KL",
    "swap damage ΔCE": "替换损害 ΔCE",
    "Functional test: {teachers} → {student}": "功能测试：{teachers} → {student}",
    "What single heads cost": "单个头的代价",
    "Can the student use the projected cache?": "学生能使用投影后的缓存吗？",
    # page
    "Function": "功能测试",
    "Functional test": "功能测试",
    "Functional tests": "功能测试",
    "Texts": "文本",
    "Test in function": "做功能测试",
    "Its functional test": "它的功能测试",
    "Whether the student can use this projected cache: with the same models, prompts and settings.": (
        "学生能否使用这一投影缓存：沿用相同的模型、提示与设置。"
    ),
    "Look into it": "查看",
    "Against its controls": "与对照比较",
    "Heads and layers": "头与层",
    "Can the student use the teacher’s cache?": "学生能使用教师的缓存吗？",
    "New test": "新建测试",
    "Only rules by which the teacher has read no more than the student: with {rules} a good continuation could be told "
    "in advance.": "仅限教师所读不多于学生的规则：使用 {rules} 时，好的续写可能已被提前透露。",
    "Share of each document handed over": "交给学生的文档比例",
    "Run the test": "运行测试",
    "The cache of this share of the student’s tokens is replaced; the rest of the text is judged.": (
        "替换学生这一比例词元的缓存；对其余文本进行评判。"
    ),
    "How much is tried": "测试量",
    "Further shares, for the curve": "曲线所用的其他比例",
    "Documents judged at most": "最多评判的文档数",
    "Prompts continued greedily": "贪心续写的提示数",
    "Layers whose heads are swapped": "逐头替换的层数",
    "Seconds for swaps": "替换用时上限（秒）",
    "Every fifth document is held out from the fit; so many of these are judged.": (
        "每五篇文档留出一篇不参与拟合；其中评判这么多篇。"
    ),
    "One head at a time, in the layers that cost most; 0: no swaps. The first tell how long it takes.": (
        "在代价最大的层中逐头替换；0：不替换。由最初几次预计用时。"
    ),
    "0: no limit. Half of it is for layers.": "0：不限。其中一半用于逐层替换。",
    "Attention-output error": "注意力输出误差",
    "Projection error": "投影误差",
    "Swap damage, KL": "替换损害（KL）",
    "Swap damage, ΔCE": "替换损害（ΔCE）",
    "Measure": "度量",
    "{kind} per student layer and KV head; the table below has the numbers.": "每个学生层与 KV 头的 {kind}；数值见下表。",
    "Errors and damage of every student head": "每个学生头的误差与损害",
    "**Whole layers, one at a time**": "**逐层替换**",
    "**Which error tells the damage?**": "**哪种误差能说明损害？**",
    "No head was measured alone: the student’s attention cannot be watched and no swap was asked for.": (
        "没有单独测量任何头：无法观察学生的注意力，也未要求替换。"
    ),
    "KL of handing over one layer alone, beside its training mean": "只替换一层的 KL，与其训练均值并列",
    "{error} of every head against the KL of its swap": "每个头的{error}与其替换的 KL",
    "**Every variant at every prefix**": "**各前缀下的每个变体**",
    "**Settings, data, versions, seconds**": "**设置、数据、版本、用时**",
    "Settings of this test": "本次测试的设置",
    "Continued from": "续写所用缓存",
    "**Prompt**": "**提示**",
    "In ⟦brackets⟧: what the continuation from the own cache does not have at this place.": (
        "⟦括号⟧内：自身缓存的续写在此处没有的内容。"
    ),
    "No document was continued: none has a prompt with something behind it, or none was asked for.": (
        "没有续写任何文档：没有提示后还有内容的文档，或未要求续写。"
    ),
    "Expected answer: {answer}": "正确答案：{answer}",
    "Nothing: it ends at once.": "无：立即结束。",
    "✓ answer {answer}": "✓ 答案 {answer}",
    "✗ answer {answer}": "✗ 答案 {answer}",
    "Right answers of every variant": "每个变体答对的比例",
    "Share of right answers after every variant": "每个变体之后答对的比例",
    "**Over the length of the prefix**": "**随前缀长度的变化**",
    "{measure} of every variant over the share of the document": "每个变体的 {measure} 随文档比例的变化",
    "{measure} of every variant of the prefix’ cache": "前缀缓存每个变体的 {measure}",
    # runs
    "This is a functional test, not a training run.": "这是功能测试，不是训练运行。",
    "Functional test {name}: {phase}": "功能测试 {name}：{phase}",
    "This functional test was cancelled.": "本次功能测试已取消。",
    "This functional test was lost": "本次功能测试已失联",
    "This functional test failed": "本次功能测试失败",
    "No functional tests yet in {folder}.": "{folder} 中还没有功能测试。",
    "Analyses and functional tests have no steps: only training runs are laid over each other.": (
        "分析与功能测试没有训练步：只有训练运行可以叠加。"
    ),
    "Open the functional test": "打开功能测试",
}
