"""The views of one head, and the timeline with its groups, its strip and its signal."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "from byte %{customdata[0]}: error %{customdata[1]:.2f}, click to go there": (
        "从第 %{customdata[0]} 字节起：误差 %{customdata[1]:.2f}，点击跳转"
    ),
    "held-out R² on the sample (whisker: ± 1 jackknife s.e.)": "样本上的留出 R²（误差线：± 1 刀切法标准误）",
    "time rule": "时间规则",
    "teacher, every own step through the map": "教师，自身每一步经映射",
    "teacher, resampled and projected": "教师，重采样并投影",
    "byte of the text (UTF-8), where a token ends": "文本字节（UTF-8），词元结束处",
    "standard deviations<br>of the student head": "标准差<br>（学生头）",
    "error from the teacher": "由教师得到的误差",
    "error from the token alone": "仅凭词元的误差",
    "share of variance": "方差占比",
    "principal direction of the student head, largest first": "学生头的主方向，由大到小",
    "direction %{x}: error %{y:.3f}": "方向 %{x}：误差 %{y:.3f}",
    "direction %{x}: token alone %{y:.3f}": "方向 %{x}：仅凭词元 %{y:.3f}",
    "direction %{x}: %{y:.2%} of the variance": "方向 %{x}：占方差 %{y:.2%}",
    "exact border": "精确边界",
    "not one to one, teacher : student": "非一对一，教师 : 学生",
    "%{customdata[0]} teacher and %{customdata[1]} student tokens for bytes %{customdata[2]}–%{customdata[3]}": (
        "第 %{customdata[2]}–%{customdata[3]} 字节：教师 %{customdata[0]} 个词元，学生 %{customdata[1]} 个"
    ),
    "Without teacher head {missed} R² falls most, by {lost}; alone, head {alone} reaches most, {reached}; all "
    "together {all}. In all chosen layers, held out ({folds} folds by document), n = {n} tokens; the token alone "
    "reaches {identity}.": (
        "去掉教师头 {missed} 时 R² 下降最多（{lost}）；单独使用时头 {alone} 最高（{reached}）；全部一起为 {all}。"
        "所选各层合计，按文档留出（{folds} 折），n = {n} 个词元；仅凭词元为 {identity}。"
    ),
    "The largest direction holds {share} of {name}’s variance and has error {error} ± {se} (the token alone: "
    "{identity}). {n} of {all} directions hold {most} of the variance: error {large} on them{rest}. Held out "
    "({folds} folds by document), n = {tokens} tokens; weighted by share, the errors sum to the head’s {total}.": (
        "最大的方向占 {name} 方差的 {share}，误差 {error} ± {se}（仅凭词元：{identity}）。"
        "{all} 个方向中前 {n} 个占方差的 {most}，其上误差 {large}{rest}。按文档留出（{folds} 折），"
        "n = {tokens} 个词元；按占比加权，各方向误差之和即该头的误差 {total}。"
    ),
    ", {small} on the others": "，其余方向 {small}",
    "The best rule for this head is **{rule}**: R² {r2}{se}, n = {n} tokens, those that all rules cover.": (
        "对该头最好的规则是 **{rule}**：R² {r2}{se}，n = {n} 个词元（所有规则都覆盖的）。"
    ),
    "No token is covered by every rule, so the rules cannot be compared.": "没有所有规则都覆盖的词元，因此无法比较。",
    "That of this analysis, **{rule}**, reaches {r2}{se}.": "本次分析所用的 **{rule}** 为 {r2}{se}。",
    "The control, nearest, which is blind to the text: {r2}.": "对照（不看文本的 nearest）：{r2}。",
    "Same layers and folds ({folds} by document, held out), ridge, on the sample. ceil, overlap and the rules "
    "that are blind to the text may have read ahead of the student; * is scored on its own tokens only (exact: "
    "where borders meet) and not to be compared.": (
        "层与折相同（按文档留出，{folds} 折），岭回归，在样本上。ceil、overlap 与不看文本的规则可能比学生读得更靠前；"
        "* 只在其自身的词元上计分（exact：边界重合处），不可比较。"
    ),
    "on the same tokens": "相同词元",
    "No token is scored here.": "这里没有计分的词元。",
    "The {n} worst of {all} scored tokens have errors from {error} down to {least}; the head’s is {mean} "
    "(n = {tokens} held-out tokens; 1 is no better than the training mean).": (
        "{all} 个计分词元中最差的 {n} 个，误差从 {error} 到 {least}；该头的误差为 {mean}"
        "（n = {tokens} 个留出词元；1 表示不比训练均值好）。"
    ),
    "Drawn is (x − training mean) · v / s: v is the first principal direction of the student head ({share} of its "
    "variance), s the standard deviation along it. x is the student’s {name}; the teacher’s, resampled by "
    "{rule} and projected by the map that has not seen this document; and the same map applied to every step of "
    "the teacher before resampling. Student and resampled teacher correlate {agree} over {n} scored tokens of this "
    "document; along v the held-out error over all documents is {error}, from the token alone {identity}.": (
        "图中为 (x − 训练均值) · v / s：v 是学生头的第一主方向（占其方差 {share}），s 是沿 v 的标准差。"
        "x 分别是学生的 {name}；按 {rule} 重采样、由未见过该文档的映射投影的教师；以及重采样之前教师的每一步"
        "经同一映射。学生与重采样教师在该文档 {n} 个计分词元上的相关为 {agree}；沿 v 在全部文档上的留出误差为 "
        "{error}，仅凭词元为 {identity}。"
    ),
    "This document has {n} exact borders. Between two of them stand: one token of each {same} times, one teacher "
    "token for several of the student {split} times, several for one {joined} times, several for several {both} "
    "times.": (
        "该文档有 {n} 个精确边界。相邻边界之间：一对一 {same} 处，教师一个对学生多个 {split} 处，"
        "教师多个对学生一个 {joined} 处，多对多 {both} 处。"
    ),
    "Nothing is scored here, so no teacher head contributes.": "这里没有计分，因此没有教师头的贡献。",
    "other steps for each teacher head": "每个教师头各取不同的步",
    "First token shown": "起始词元",
    "Drawn: tokens {first}–{last} of {all}. The table below is of the whole document.": (
        "已绘：第 {first}–{last} 个词元，共 {all} 个。下面的表是整个文档。"
    ),
    "The numbers as a table": "数值表",
    "The numbers of the figure above": "上图的数值",
    "Shown of this head": "该头的视图",
    "**The worst tokens in their context**": "**误差最大的词元及其上下文**",
    "Of all documents kept": "所有已保存的文档",
    "before it": "前文",
    "token": "词元",
    "after it": "后文",
    "teacher tokens read from": "取自的教师词元",
    "document": "文档",
    "␣ is a space, ⏎ a line break; … where the text goes on. Sinks and special tokens are not ranked.": (
        "␣ 为空格，⏎ 为换行；… 表示文本未完。汇聚词元与特殊词元不参与排名。"
    ),
    "**Which directions of the head are explained** (eigenvectors of its covariance, held-out rows)": (
        "**该头的哪些方向得到解释**（其协方差的特征向量，留出行）"
    ),
    "**This head under every time rule**": "**该头在各时间规则下**",
    "This analysis does not hold {what}: it was made by an earlier kvlab. Run it again to have it.": (
        "该分析没有{what}：它由较早的 kvlab 生成。重新运行即可得到。"
    ),
    "This analysis was run under one time rule. The comparison fits the other rules on the sample, with the same "
    "layers and folds; it is a new analysis of the same prompts, with progress and Cancel. On the command "
    "line: --compare-rules.": (
        "该分析只用了一个时间规则。比较会在样本上以相同的层与折拟合其他规则；它是对同样提示的一次新分析，"
        "有进度，可取消。命令行：--compare-rules。"
    ),
    "Compare time rules": "比较时间规则",
    "Also fits the other time rules, on the sample, so that each head can be compared under all of them. With few "
    "prompts this takes about half as long again; the caches of the sample are held meanwhile.": (
        "同时在样本上拟合其他时间规则，使每个头可在所有规则下比较。提示较少时耗时约增加一半；期间保留样本的缓存。"
    ),
    "Controls": "对照",
    "Teacher heads": "教师头",
    "Tokens": "词元",
    "Spectrum": "误差谱",
    "Time rules": "时间规则",
    "R² from it alone": "单独的 R²",
    "error": "误差",
    "student token no.": "学生词元序号",
    "first byte": "起始字节",
    "the error spectrum": "误差谱",
    "This head does not vary on these prompts, so there are no directions to tell apart.": (
        "该头在这些提示上没有变化，因此没有可区分的方向。"
    ),
    "Held-out error along each principal direction of the head, and its share of the variance": (
        "该头每个主方向上的留出误差及其方差占比"
    ),
    "direction": "方向",
    "up to here": "累计",
    "error 1 − R² along it": "沿该方向的误差 1 − R²",
    "± s.e. along it": "± 沿该方向的标准误",
    "error, token alone": "误差，仅凭词元",
    "Held-out R² of this head under each time rule": "该头在每个时间规则下的留出 R²",
    "of this analysis": "本次分析",
    "± s.e. of R²": "± R² 的标准误",
    "n scored": "计分 n",
    "n fitted": "拟合 n",
    "**The resampled signal of one head**": "**一个头的重采样信号**",
    "token text": "词元文本",
    "Student head": "学生头",
    "This analysis does not hold the resampled signal: it was made by an earlier kvlab. Run it again.": (
        "该分析没有重采样信号：它由较早的 kvlab 生成。请重新运行。"
    ),
    "This head does not vary on these prompts, so it has no signal.": "该头在这些提示上没有变化，因此没有信号。",
    "The head along its first direction: teacher before and after resampling and projection, and student": (
        "该头沿其第一方向：重采样与投影前后的教师，以及学生"
    ),
    "token no.": "词元序号",
    "last byte": "结束字节",
    "standard deviations": "标准差",
    "Bytes shown": "显示字节数",
    "The strip is the whole document ({all} bytes), coloured by the error, mean over heads (dark 0, bright 1 = "
    "training mean), with its parts above; the frame is what is drawn: bytes {start}–{end}. Drag the plot to "
    "see bytes {first}–{last}; tokens beyond are not drawn.": (
        "条带是整个文档（{all} 字节），颜色为各头平均误差（深 0，亮 1 = 训练均值），上方是它的各部分；"
        "方框是所绘部分：第 {start}–{end} 字节。拖动图可看第 {first}–{last} 字节；此外的词元未绘出。"
    ),
    "The whole document by bytes, coloured by error; the frame is the window drawn above": (
        "按字节的整个文档，颜色为误差；方框是上图所绘的窗口"
    ),
    "Or click the strip.": "也可点击条带。",
    "held-out error of every student head along each of its principal directions, and its share": (
        "每个学生头沿其各主方向的留出误差及方差占比"
    ),
    "held-out R² of every student head under every time rule, on the sample": "每个学生头在各时间规则下的留出 R²（样本）",
    "The worst K head: layer {layer}, head {head}": "误差最大的 K 头：第 {layer} 层，第 {head} 头",
}
