"""One training run as it goes: its state, curves, checkpoints and end."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "This is an analysis, not a training run.": "这是一次分析，不是训练运行。",
    "run {id}": "运行 {id}",
    "{fusion} fusion": "融合方式 {fusion}",
    "A control: no teacher has a part in the loss ({name}).": "对照：损失中没有教师参与（{name}）。",
    "A control: the teacher's rows are out of order ({name}).": "对照：教师的各行被打乱（{name}）。",
    "A control: the teacher has random weights ({name}).": "对照：教师的权重是随机的（{name}）。",
    # What it is doing.
    "starting its process": "启动进程",
    "loading models and data": "加载模型与数据",
    "fitting the map from teacher to student": "拟合教师到学生的映射",
    "measuring the untrained student on held-out text": "训练前评估：在留出文本上测量学生",
    "training": "训练",
    "measuring the trained student on held-out text": "训练后评估：在留出文本上测量学生",
    "saving a checkpoint": "保存检查点",
    "writing the report": "生成报告",
    "{done:,} of {total:,}": "{done:,} / {total:,}",
    "{phase}, step {done:,} of {total:,}": "{phase}，第 {done:,} / {total:,} 步",
    "{phase}, {done:,} of {total:,}": "{phase}，{done:,} / {total:,}",
    "about {time} left in this stage": "本阶段约剩 {time}",
    "asked to stop: it finishes its step, saves and ends": "已请求停止：完成当前步并保存后结束",
    "no sign of life for {time}: one long step, or stuck": "已 {time} 没有动静：单步耗时较长，或已卡住",
    "First in the queue: it starts as soon as its device is free, within seconds when nothing else runs.": (
        "排在队首：设备空闲后即开始，若无其他运行则在几秒之内。"
    ),
    "The device is busy. {n:,} runs are before it in the queue; it starts by itself, also when this page is closed.": (
        "设备忙。队列中前面还有 {n:,} 个运行；轮到时会自动开始，关闭本页也不影响。"
    ),
    # Its numbers and curves.
    "Step": "步",
    "Loss": "损失",
    "Elapsed": "已用时间",
    "Remaining": "剩余时间",
    "Steps per second": "每秒步数",
    "Tokens per second": "每秒词元数",
    "How it computes: it {words}.": "计算方式：{words}。",
    "**Loss terms**, raw (thin), smoothed (thick)": "**损失各项**，细线为原始值，粗线为平滑值",
    "loss": "损失",
    "Loss terms over steps": "损失各项随步数的变化",
    "**Cross-entropy** on the training text": "训练文本上的**交叉熵**",
    "nats per token": "每词元 nat",
    "Cross-entropy over steps": "交叉熵随步数的变化",
    "**GPU memory in use**": "**显存占用**",
    "**Memory of this process** (no GPU)": "**本进程内存**（无 GPU）",
    "**Memory in use**": "**内存占用**",
    "Memory in use over time": "内存占用随时间的变化",
    "**Weight of each teacher**, mean over layers and rows of a step": "**各教师的权重**，每步对各层各行取平均",
    "Weight of each teacher over steps": "各教师权重随步数的变化",
    "Nothing is logged yet.": "尚无记录。",
    "total": "总计",
    "entropy": "熵",
    "raw": "原始",
    "{limit:.0%} of {total:.0f} GiB": "{total:.0f} GiB 的 {limit:.0%}",
    "weight": "权重",
    "term": "损失项",
    # Its checkpoints and log.
    "**Checkpoints**": "**检查点**",
    "The checkpoints of the verdict": "结论的各检查点",
    "result": "结果",
    "threshold": "阈值",
    "The settings of this run cannot be read, so its checkpoints are not known.": (
        "无法读取本次运行的设置，因此不知道有哪些检查点。"
    ),
    "Log": "日志",
    "**{log}**, the last lines": "**{log}** 的最后几行",
    "{n} damaged lines of the logged numbers were passed over; all others are shown.": (
        "日志数据中有 {n} 行损坏，已跳过；其余全部显示。"
    ),
    # What can be done.
    "Take out of the queue": "移出队列",
    "Finishes its step, saves a checkpoint, and ends.": "完成当前步，保存检查点，然后结束。",
    "Kill ends the process and all that it started at once. The steps since the last checkpoint are lost; what was "
    "logged is kept. **Stop** finishes the step and saves.": (
        "强制终止会立即结束该进程及其启动的一切。上一个检查点之后的步会丢失；已记录的内容保留。**停止**则会完成当前步并保存。"
    ),
    "Kill it now": "立即强制终止",
    "Keep it running": "让它继续运行",
    "Killing it, and waiting until it is gone…": "正在强制终止，等待其结束…",
    "Killed: process {pid} and all that it started are gone.": "已强制终止：进程 {pid} 及其启动的一切都已结束。",
    "Resume from its last checkpoint": "从最近的检查点继续运行",
    "Start it again": "重新开始",
    "It has no checkpoint yet: it begins anew, in the same folder.": "还没有检查点：将在同一文件夹中从头开始。",
    "Launch again with {settings}": "以 {settings} 重新启动",
    # How it ended.
    "This run failed.": "本次运行失败。",
    "This run was lost: its process is gone and did not say how it ended.": (
        "本次运行失联：进程已不存在，也没有留下结束原因。"
    ),
    "This run was killed at step {done:,} of {total:,}.": "本次运行在第 {done:,} / {total:,} 步被强制终止。",
    "This run was killed.": "本次运行被强制终止。",
    "This run was stopped at step {done:,} of {total:,}.": "本次运行在第 {done:,} / {total:,} 步被取消。",
    "This run was stopped.": "本次运行已取消。",
    "Its process is gone.": "进程已结束。",
    "Its process is about to end.": "进程即将结束。",
    "No reason was recorded. Its folder may be damaged; launch the run again.": (
        "没有记录原因。运行文件夹可能已损坏；请重新启动。"
    ),
    "**Verdict: passed.** All {checkpoints} checkpoints passed in {steps} steps.": (
        "**结论：通过。** {steps} 步内，{checkpoints} 个检查点全部通过。"
    ),
    "**Verdict: failed** in {steps} steps, at: {names}.": "**结论：未通过**（{steps} 步），未通过的检查点：{names}。",
    "**No verdict:** the run has ended, and – of its checkpoints were judged.": (
        "**没有结论：** 运行已结束，但检查点未能判定。"
    ),
    "cross-entropy {before:.4f} → {after:.4f} nats per token": "交叉熵 {before:.4f} → {after:.4f}（每词元 nat）",
    "KV error of K {before:.4f} → {after:.4f}": "K 的 KV 误差 {before:.4f} → {after:.4f}",
    "of V {before:.4f} → {after:.4f}": "V 的 KV 误差 {before:.4f} → {after:.4f}",
    "{n:,} documents": "{n:,} 篇文档",
    "{n:,} tokens": "{n:,} 个词元",
    "On held-out text, start → end: {parts} (n = {counts}, not trained on).": (
        "留出文本上，训练前 → 训练后：{parts}（n = {counts}，未参与训练）。"
    ),
    "On held-out text, start → end: {parts}.": "留出文本上，训练前 → 训练后：{parts}。",
    "Weights of the teachers in the last step: {shares}.": "最后一步各教师的权重：{shares}。",
    "The student's held-out cross-entropy rose by {by:.4f}.": "学生的留出交叉熵上升了 {by:.4f}。",
    "The student's held-out cross-entropy fell by {by:.4f}.": "学生的留出交叉熵下降了 {by:.4f}。",
    "The student's held-out cross-entropy did not change.": "学生的留出交叉熵没有变化。",
    "The functional test reports nothing: the student's own cache, injected, does not reproduce its logits.": (
        "功能测试不报告任何结果：注入学生自己的缓存不能重现其 logits。"
    ),
    "The functional test was not measured at both start and end.": "功能测试未能在训练前和训练后都测得。",
    "Functional test, start → end: on the projected cache KL {kl_before:.3f} ± {kl_se_before:.3f} → {kl_after:.3f} "
    "± {kl_se_after:.3f} ({kl_change:+.3f} ± {kl_se_change:.3f}) and ΔCE {delta_ce_before:+.3f} ± "
    "{delta_ce_se_before:.3f} → {delta_ce_after:+.3f} ± {delta_ce_se_after:.3f} ({delta_ce_change:+.3f} ± "
    "{delta_ce_se_change:.3f}) nats per token against the student's own cache of that moment (KL of the controls at "
    "the end: mean cache {mean:.3f}, shuffled cache {shuffled:.3f}; n = {n:,} tokens of {documents:,} held-out "
    "documents). The verdict does not depend on it.": (
        "功能测试，训练前 → 训练后：使用投影缓存时 KL {kl_before:.3f} ± {kl_se_before:.3f} → {kl_after:.3f} ± "
        "{kl_se_after:.3f}（{kl_change:+.3f} ± {kl_se_change:.3f}），ΔCE {delta_ce_before:+.3f} ± "
        "{delta_ce_se_before:.3f} → {delta_ce_after:+.3f} ± {delta_ce_se_after:.3f}（{delta_ce_change:+.3f} ± "
        "{delta_ce_se_change:.3f}），为每词元 nat，以学生当时自己的缓存为准（训练后对照的 KL：均值缓存 {mean:.3f}，"
        "打乱的缓存 {shuffled:.3f}；n = {documents:,} 篇留出文档的 {n:,} 个词元）。结论不取决于此测试。"
    ),
    "A falling KV loss alone proves nothing: compare this with a control run, such as CE only.": (
        "KV 损失下降本身不能证明什么：请与对照运行比较，例如仅 CE。"
    ),
}
