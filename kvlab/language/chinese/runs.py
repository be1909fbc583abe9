"""The Runs page: history, comparison, one run and its files. States as kvlab.results.training.chinese has them."""

from __future__ import annotations

WORDS: dict[str, str] = {
    # History and selection.
    "Training runs": "训练运行",
    "Analyses": "分析",
    "All": "全部",
    "Show": "显示",
    "No training runs yet in {folder}.": "{folder} 中还没有训练运行。",
    "No analyses yet in {folder}.": "{folder} 中还没有分析。",
    "No runs yet in {folder}.": "{folder} 中还没有运行。",
    "{n} runs, newest first": "{n} 个运行，最新的在前",
    "{n} waiting or running": "{n} 个在排队或运行",
    "{n} selected, but not in this list": "{n} 个已选中，但不在此列表中",
    "{facts}. Click a heading to sort.": "{facts}。点击表头可排序。",
    "Not in {folder}, deleted or never there: {names}. The others are shown.": (
        "不在 {folder} 中，已删除或从未存在：{names}。其余照常显示。"
    ),
    "Not in {folder}, deleted or never there: {names}.": "不在 {folder} 中，已删除或从未存在：{names}。",
    "Tick one run to see it in detail, several to lay them over each other.": (
        "勾选一个运行可查看详情，勾选多个可叠加比较。"
    ),
    "The first {drawn} of the selected training runs are shown below, {others} are not.": (
        "下面显示所选训练运行中的前 {drawn} 个，另有 {others} 个未显示。"
    ),
    "The queue stands still: no waiting run is started.": "队列已停滞：排队中的运行不会启动。",
    "All runs, newest first: state, verdict, steps, loss, held-out cross-entropy, memory, device, time, note": (
        "全部运行，最新的在前：状态、结论、步数、损失、留出交叉熵、内存、设备、时间、笔记"
    ),
    "The colour of the run in the figure below.": "该运行在下图中的颜色。",
    "The checkpoints of the run, all together.": "该运行所有检查点的总结果。",
    "step / of": "步 / 总",
    "final loss": "最终损失",
    "Of the last step that was logged.": "最后一个有记录的步的损失。",
    "Held-out cross-entropy before the first step, nats per token.": "第一步之前的留出交叉熵，每词元 nat。",
    "Held-out cross-entropy after the last step, nats per token.": "最后一步之后的留出交叉熵，每词元 nat。",
    "Most memory in use: of the GPU, or without one of the run's own process.": (
        "内存占用峰值：GPU 的；没有 GPU 时为运行自身进程的。"
    ),
    "started (UTC)": "开始时间（UTC）",
    "Since its start, or its last resumption.": "自开始或最近一次继续运行起。",
    "note": "笔记",
    # States; the verdict.
    "finished": "已完成",
    "failed": "失败",
    "stopped": "已取消",
    "lost": "失联",
    "stopping": "正在停止",
    "waiting": "排队中",
    "waiting: {n} before it": "排队中：前面 {n} 个",
    "waiting: next": "排队中：下一个",
    "running": "运行中",
    "running: {phase}": "运行中：{phase}",
    "stopping: it finishes its step and saves": "正在停止：完成当前步并保存",
    "lost: its process is gone": "失联：进程已不存在",
    "✓ passed": "✓ 通过",
    "✗ failed": "✗ 未通过",
    "… pending": "… 待定",
    # What a run logs.
    "Total loss": "总损失",
    "total loss": "总损失",
    "Cross-entropy (CE), training": "交叉熵（CE），训练",
    "training CE, nats per token": "训练 CE（每词元 nat）",
    "KV error of K, training": "K 的 KV 误差，训练",
    "KV(K), error² / variance": "KV(K)，误差² / 方差",
    "KV error of V, training": "V 的 KV 误差，训练",
    "KV(V), error² / variance": "KV(V)，误差² / 方差",
    "Cross-entropy (CE), held-out": "交叉熵（CE），留出",
    "held-out CE, nats per token": "留出 CE（每词元 nat）",
    "Memory in use": "内存占用",
    "memory in use, GiB": "内存占用（GiB）",
    "Router entropy": "路由器熵",
    "router entropy, 1 = even": "路由器熵，1 = 均匀",
    "Throughput": "吞吐量",
    "student tokens per second": "每秒学生词元数",
    "Gradient norm": "梯度范数",
    "gradient norm, unclipped": "梯度范数，未裁剪",
    "Learning rate": "学习率",
    "learning rate": "学习率",
    "Variance of K": "K 的方差",
    "K variance / at start": "K 方差 / 开始时",
    "Variance of V": "V 的方差",
    "V variance / at start": "V 方差 / 开始时",
    "Effective rank of K": "K 的有效秩",
    "(Σλ)² / Σλ² of K": "K 的 (Σλ)² / Σλ²",
    "Effective rank of V": "V 的有效秩",
    "(Σλ)² / Σλ² of V": "V 的 (Σλ)² / Σλ²",
    "Router weight of teacher {n}": "教师 {n} 的路由权重",
    "weight of the teacher, of 1": "教师的权重（总和为 1）",
    "{name}, as logged": "{name}，原始记录",
    # The figure.
    "None of the selected runs has logged anything yet.": "所选运行都还没有记录。",
    "Metric": "指标",
    "Every value beside the smoothed line": "平滑曲线旁显示每个值",
    "as logged": "原始记录",
    "shown": "曲线",
    "Smoothed: exponential moving average, weight 0.9.": "平滑：指数滑动平均，权重 0.9。",
    "Measured twice, before the first and after the last step; the line only joins the two.": (
        "测量两次：第一步之前与最后一步之后；连线只是连接这两点。"
    ),
    "Of curves with more than {points} values (here up to {most:,}), the extremes of each part are drawn.": (
        "超过 {points} 个值的曲线（此处最多 {most:,} 个），只绘制每一段的极值。"
    ),
    "Not logged by: {runs}.": "没有此项记录的运行：{runs}。",
    "{metric} of {n} runs; the table below has their results": "{n} 个运行的{metric}；下表列出其结果",
    "Scroll to zoom, drag to move, double-click to reset.": "滚动缩放，拖动平移，双击复位。",
    # Side by side.
    "Results side by side": "结果并列比较",
    "KL before": "KL 训练前",
    "KL after": "KL 训练后",
    "Functional test: KL on the projected cache against the student's own cache of that moment, nats per token.": (
        "功能测试：使用投影缓存时相对学生当时自己的缓存的 KL，每词元 nat。"
    ),
    "CE before": "CE 训练前",
    "CE after": "CE 训练后",
    "K before": "K 训练前",
    "K after": "K 训练后",
    "V before": "V 训练前",
    "V after": "V 训练后",
    "n docs": "n（文档）",
    "n rows": "n（行）",
    "peak GiB": "峰值 GiB",
    "of total": "占比",
    "steps/s": "步/秒",
    "Held-out cross-entropy, nats per token.": "留出交叉熵，每词元 nat。",
    "Held-out KV(K): squared error over the target's variance.": "留出 KV(K)：平方误差与目标方差之比。",
    "Held-out KV(V): squared error over the target's variance.": "留出 KV(V)：平方误差与目标方差之比。",
    "Held-out documents; no step is trained on them.": "留出文档；任何一步都不用它们训练。",
    "Predicted tokens, over which CE is the mean.": "被预测的词元数，CE 是其平均。",
    "Student steps with a target, over which K and V are the mean.": "有目标的学生步数，K 与 V 是其平均。",
    "Most memory in use.": "内存占用峰值。",
    "One over the median of the last 20 steps.": "最近 20 步耗时中位数的倒数。",
    "Verdict, held-out cross-entropy and KV errors before and after, memory and pace of each selected run": (
        "所选各运行的结论、训练前后的留出交叉熵与 KV 误差、内存与速度"
    ),
    "CE, K and V: means over held-out documents, which no step is trained on, before the first and after the last "
    "step.": "CE、K、V：在从不参与训练的留出文档上的平均值，分别在第一步之前与最后一步之后测得。",
    "Peak memory: of the GPU.": "内存峰值：指 GPU。",
    "Peak memory: of the run’s own process.": "内存峰值：指运行自身的进程。",
    "Peak memory: of the GPU or the run’s own process.": "内存峰值：指 GPU 或运行自身的进程。",
    "**Not on the same documents**, as {settings} differ: compare the changes, not the values.": (
        "**所用文档不同**（{settings} 不同）：请比较变化，而不是数值。"
    ),
    "K and V are errors against each run’s own targets, which differ by {settings}.": (
        "K 与 V 是相对各运行自身目标的误差，这些目标因 {settings} 而不同。"
    ),
    # The note.
    "Note": "笔记",
    "What this run was for, what came out": "为什么做这次运行，结果如何",
    "Plain text, kept as {file} in the run’s folder, shown in the history and in the report.": (
        "纯文本，保存为运行文件夹中的 {file}，显示在运行记录和报告中。"
    ),
    "Save note": "保存笔记",
    "Written meanwhile in another window or by hand:": "其间在另一窗口或手工写入：",
    "(no note)": "（无笔记）",
    "Take that one": "采用该版本",
    # One run.
    "verdict **{verdict}**": "结论 **{verdict}**",
    "step {steps}": "第 {steps} 步",
    "held-out CE {before:.4f} → {after} nats per token": "留出 CE {before:.4f} → {after}（每词元 nat）",
    " (n = {tokens:,} tokens, {documents} held-out documents)": "（n = {tokens:,} 个词元，{documents} 篇留出文档）",
    "peak memory of the GPU {used}": "显存峰值 {used}",
    "peak memory of the GPU {used}, {share:.0%} of {total}": "显存峰值 {used}，占 {total} 的 {share:.0%}",
    "peak memory of the process {used}": "进程内存峰值 {used}",
    "peak memory of the process {used}, {share:.0%} of {total}": "进程内存峰值 {used}，占 {total} 的 {share:.0%}",
    "started {time:%Y-%m-%d %H:%M:%S} UTC": "开始于 {time:%Y-%m-%d %H:%M:%S} UTC",
    "{n} damaged lines in its metrics passed over, all others read": "指标中有 {n} 行损坏，已跳过，其余全部读取",
    "No reason was recorded. Its log in the run’s folder may tell.": "没有记录原因。可查看运行文件夹中的日志。",
    "Open the analysis": "打开分析",
    "Open live view": "打开实时视图",
    "No checkpoint has been judged yet.": "还没有检查点得到判定。",
    "No checkpoint has been judged.": "没有检查点得到判定。",
    "what was found": "备注",
    "The checkpoints of the run, each with its state and what was found": "该运行的各检查点及其状态与备注",
    "Settings (config.yaml)": "设置（config.yaml）",
    "# not readable: {error}": "# 无法读取：{error}",
    "Files in its folder": "文件夹中的文件",
    "file": "文件",
    "size": "大小",
    "a link, not followed": "链接，未跟随",
    "Files of the run and their sizes": "该运行的文件及其大小",
    "{n} more files are not listed.": "另有 {n} 个文件未列出。",
    # What can be done.
    "Stop": "停止",
    "Kill": "强制终止",
    "Resume": "继续运行",
    "Launch again": "重新启动",
    "Delete": "删除",
    "Delete {n} runs": "删除 {n} 个运行",
    "Delete {name}": "删除 {name}",
    "Select none": "取消选择",
    "It finishes its step, saves a checkpoint and ends; a waiting run leaves the queue.": (
        "完成当前步，保存检查点，然后结束；排队中的运行则离开队列。"
    ),
    "It goes on from its last checkpoint, or from the beginning if it has none.": (
        "从最近的检查点继续；没有检查点则从头开始。"
    ),
    "A new run with the same settings, from the beginning.": "以相同设置新建运行，从头开始。",
    "**Kill {names}?** It ends at once; the steps since its last checkpoint are lost.": (
        "**强制终止 {names}？** 它会立即结束；上一个检查点之后的步会丢失。"
    ),
    "Kill it": "强制终止",
    "Let it run": "让它运行",
    "**Delete {names}?** All files go with it, checkpoints too. This cannot be undone.": (
        "**删除 {names}？** 所有文件连同检查点都会删除，且无法恢复。"
    ),
    "Delete for good": "永久删除",
    "Keep": "保留",
    "Asking it to stop…": "正在请求停止…",
    "Queueing it…": "正在加入队列…",
    "Launching a new run…": "正在启动新的运行…",
    "Ending its processes…": "正在结束其进程…",
    "Deleting…": "正在删除…",
    "It was waiting, and is out of the queue.": "它还在排队，现已移出队列。",
    "Asked to stop: it finishes its step, saves and ends.": "已请求停止：完成当前步并保存后结束。",
    "Killed: its processes are gone.": "已强制终止：其进程都已结束。",
    "Queued: it goes on when its device is free.": "已加入队列：设备空闲后继续运行。",
    "Launched with the same settings: {id}": "已以相同设置启动：{id}",
    "Deleted: {n} runs.": "已删除 {n} 个运行。",
    "{found} ({gone} of {asked} were deleted)": "{found}（{asked} 个中删除了 {gone} 个）",
    # What can be taken away.
    "Language of the report": "报告语言",
    "What the run wrote": "运行写出的文件",
}
