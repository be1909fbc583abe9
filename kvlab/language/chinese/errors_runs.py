"""What is said of runs, their processes and folders, of the worker and of the command line."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    # states
    "queued": "排队中",
    "running": "运行中",
    "done": "已完成",
    "failed": "失败",
    "cancelled": "已取消",
    "lost": "失联",
    # finding a run
    "the id of one run in {folder}, its beginning or its last four characters": "{folder} 中一次运行的 id、其开头或最"
    "后四个字符",
    "{text}, which fits {n}: {names}": "{text}，与 {n} 次运行相符：{names}",
    "{text}, which fits none": "{text}，没有相符的运行",
    "take the id from: python -m kvlab runs list": "id 见：python -m kvlab runs list",
    "a yes to deleting {name}": "确认删除 {name}",
    "nobody to ask": "无人可问",
    "repeat it with --yes": "加上 --yes 重新执行",
    "a run id like 20260131T120000.000Z-my-run-1a2b": "形如 20260131T120000.000Z-my-run-1a2b 的运行 id",
    "take the id from the list of runs: python -m kvlab runs list": "从运行列表取 id：python -m kvlab runs list",
    "the folder of run {id} in {folder}": "{folder} 中运行 {id} 的文件夹",
    "a link, which is not followed": "是链接，不予跟随",
    "no such folder": "没有这个文件夹",
    "take the id from the list of runs: python -m kvlab runs list; runs kept elsewhere are found with "
    "KVLAB_RUNS=FOLDER": "从运行列表取 id：python -m kvlab runs list；存放在别处的运行用 KVLAB_RUNS=FOLDER 查找",
    # the disk
    "room to write in {folder}": "{folder} 中有可写的空间",
    "a folder that can be written to: {folder}": "可写的文件夹：{folder}",
    "delete runs that are no longer needed, or keep "
    "runs on another disk: KVLAB_RUNS=FOLDER": "删除不再需要的运行，或将运行存放到另一个磁盘：KVLAB_RUNS=FOLDER",
    "check that it exists and belongs to you, "
    "or keep runs elsewhere: KVLAB_RUNS=FOLDER": "检查它是否存在且属于你，或将运行存放到别处：KVLAB_RUNS=FOLDER",
    "a file system that can lock files (flock) at {folder}": "{folder} 所在的文件系统支持文件锁（flock）",
    "keep runs on a local disk: KVLAB_RUNS=FOLDER; or mount "
    "this file system with locks": "将运行存放在本地磁盘：KVLAB_RUNS=FOLDER；或以支持锁的方式挂载该文件系统",
    # its settings and note
    "the run's settings in {file}": "{file} 中的运行设置",
    "no table of settings that can be read": "没有可读的设置表",
    "launch a new run on the Validation page": "在验证页启动新的运行",
    "a note of at most {n} characters": "至多 {n} 个字符的笔记",
    "shorten it; nothing was changed": "缩短它；没有改动任何内容",
    "the note as it was when you began to write": "与开始书写时相同的笔记",
    "another one, written meanwhile in another window or by hand": "笔记已在其他窗口或手工改写",
    "look at it below, and save again to put yours in its place": "查看下方的笔记；再次保存即以你的笔记取代它",
    # its state
    "a run that waits or runs": "等待中或运行中的运行",
    "a run with a process": "有进程的运行",
    "a run that was cancelled, has failed or is lost": "已取消、失败或失联的运行",
    "a run that has ended": "已结束的运行",
    "it is {state}": "状态为{state}",
    "there is nothing to stop": "没有可停止的内容",
    "it only waits: stop takes it out of the queue": "它只是在等待：停止即可移出队列",
    "resume it": "继续运行它",
    "launch a new run with its settings": "用其设置启动新的运行",
    "wait for its end, or stop it": "等待其结束，或停止它",
    "stop it first": "请先停止它",
    "a run on this host, {host}": "本机 {host} 上的运行",
    "one on {host}": "运行在 {host} 上",
    "kill it there; stop reaches it from here": "到那台机器上强制结束；从这里可以停止它",
    "process {pid} to be gone {seconds} s after signal 9 (SIGKILL)": "信号 9（SIGKILL）发出 {seconds} 秒后进程 {pid} "
    "消失",
    "process group {pid} to be gone after signal 9 (SIGKILL)": "信号 9（SIGKILL）之后进程组 {pid} 消失",
    "it is still there": "它仍在",
    "still there: {pids}": "仍在：{pids}",
    "it waits for a disk or a driver; when it does not "
    "end by itself, ask your administrator": "它在等待磁盘或驱动；若不能自行结束，请联系管理员",
    "a training run": "训练运行",
    "an analysis, {name}": "是分析 {name}",
    "cancel or repeat it on its page in the app": "在应用中它的页面上取消或重做",
    "run {name} to be at rest": "运行 {name} 处于静止",
    "a process that has it still": "仍有进程占用它",
    "wait until it is gone, or kill it: python -m kvlab runs kill {name}": "等待其结束，或强制结束：python -m kvlab "
    "runs kill {name}",
    "the run to end by itself or to be stopped": "运行自行结束或被停止",
    "it was killed at {phase} {done} of {total}": "在「{phase}」{done} / {total} 处被强制结束",
    "resume it from its last checkpoint": "从最近的检查点继续运行",
    "{error} ({n} of {total} were deleted)": "{error}（{total} 个中已删除 {n} 个）",
    "process {pid} on {host} to work on this run": "{host} 上的进程 {pid} 处理此运行",
    "a process to work on this run": "有进程处理此运行",
    "no such process any more; last sign of life {time}": "该进程已不存在；最后的活动时间 {time}",
    "none took it up": "没有进程接手",
    "no readable status in the run's folder": "运行文件夹中没有可读的状态",
    "launch it again from its settings; if it ended by itself, its log files say how far it came, and a machine out "
    "of memory is the usual cause": "按其设置重新启动；若是自行结束，日志中有进展，最常见的原因是机器内存不足",
    # how a process ended
    "the process of the run to report how it ended": "运行的进程报告其如何结束",
    "the worker process to answer": "工作进程作出应答",
    "{how}; from the end of its log:\n{log}": "{how}；其日志末尾：\n{log}",
    "it is gone": "进程已消失",
    "it is gone, and nobody saw it end": "进程已消失，且无人看到它如何结束",
    "it ended with exit code {n}": "进程以退出码 {n} 结束",
    "it ended by signal {n}": "进程被信号 {n} 结束",
    "it ended by signal {n} ({name})": "进程被信号 {n}（{name}）结束",
    "the system may have been out of memory": "系统可能内存不足",
    "install it: pip install {package} (or all of them: pip install "
    "-r requirements.txt), then resume the run": "安装它：pip install {package}（或全部安装：pip install -r "
    "requirements.txt），然后继续运行",
    "free space (python -m kvlab runs delete ID removes a run), then resume the run": "释放空间（python -m kvlab runs "
    "delete ID 可删除一次运行），然后继续运行",
    "halve the batch and accumulate more of them, or switch "
    "gradient checkpointing on, then launch again": "将批大小减半并增加累积步数，或打开梯度检查点，然后重新启动",
    "the usual cause is memory: the system ends the largest process when it runs out. Use a smaller batch with "
    "accumulation, gradient checkpointing or a 16-bit number type, then resume the run": "最常见的原因是内存：内存耗尽"
    "时系统会结束最大的进程。请用更小的批并累积、梯度检查点或 16 位数值类型，然后继续运行",
    "something asked it to end: a batch system at its time limit, "
    "or a shutdown; resume the run": "被要求结束：批处理系统到达时限，或系统关机；继续运行即可",
    "the session that it belonged to was closed; resume the run": "它所属的会话已关闭；继续运行即可",
    "a fault in native code, often a driver or a package that does not fit the others: python -m kvlab doctor; then "
    "resume the run": "原生代码出错，常因驱动或软件包与其他不匹配：python -m kvlab doctor；然后继续运行",
    "the shared memory or the disk was full, or a file under it "
    "was cut off: free space, then resume": "共享内存或磁盘已满，或其下的文件被截断：释放空间后继续运行",
    "resume the run; if it ends like this again, its log may say more": "继续运行；若再次这样结束，其日志中可能有更多"
    "信息",
    "look at its log for the cause, then resume the run": "查看其日志中的原因，然后继续运行",
    # starting processes
    "the command of the run to start": "运行的命令能够启动",
    "python -m kvlab doctor shows what is missing on this machine": "python -m kvlab doctor 可显示本机缺少什么",
    "a new process for the computations": "用于计算的新进程",
    "close other programs if the machine is short of memory "
    "or processes, then try again": "若机器的内存或进程数不足，关闭其他程序后重试",
    "a process that starts queued runs one after the other": "依次启动排队运行的进程",
    "it did not start within {n} s": "{n} 秒内没有启动",
    "close other programs if the machine is short of memory or processes; the queue goes on with: python -m kvlab "
    "runs list. Log: {log}": "若机器的内存或进程数不足，关闭其他程序；用 python -m kvlab runs list 可让队列继续。日志"
    "：{log}",
    # the worker
    "launch again, which starts a new worker; if it dies again, use a smaller model, fewer tokens per batch or a "
    "16-bit number type. Its whole log: {log}": "重新启动，会开启新的工作进程；若再次异常退出，请用更小的模型、更少的"
    "每批词元数或 16 位数值类型。完整日志：{log}",
    "a run of this app": "由本应用运行的分析",
    "one that process {pid} on {host} computes": "由 {host} 上的进程 {pid} 计算",
    "cancel it in the app or terminal that started it": "在启动它的应用或终端中取消",
    "an answer to {call} within {seconds} s": "{seconds} 秒内对 {call} 的应答",
    "none yet: the worker is busy starting, downloading, or with another question": "尚无应答：工作进程正在启动、下载"
    "或处理其他请求",
    "try again in a moment; if it stays like this, restart the app": "稍后重试；若一直如此，请重启应用",
    "the worker process to be left running until the analysis was done": "工作进程运行到分析完成",
    "the app ended it: the app was closed, memory was freed, or "
    "another run had to be killed": "应用结束了它：应用被关闭、内存被释放，或必须强制结束另一次运行",
    "launch the analysis again": "重新启动分析",
    "an analysis to compute without errors": "分析计算无错误",
    "enough memory for both models and one batch": "足够容纳两个模型和一批数据的内存",
    "choose fewer tokens per batch or document, a 16-bit number type, a smaller model or another device, and close "
    "what else uses this one": "减少每批或每篇文档的词元数，选择 16 位数值类型、更小的模型或其他设备，并关闭占用该设备"
    "的其他程序",
    "the device to compute without errors": "设备计算无错误",
    "launch the analysis again, in a new worker process; if it fails again, choose the device cpu, where the message "
    "names the faulty step; details are in {log}": "在新的工作进程中重新启动分析；若再次失败，选择设备 cpu，其报错会指"
    "明出错的步骤；详情见 {log}",
    "this is a fault of the program, please report it with {log}": "这是程序的故障，请附上 {log} 报告",
    "one of: {names}": "以下之一：{names}",
    "the app and its worker may be of different versions: restart the app": "应用与其工作进程的版本可能不同：请重启应"
    "用",
    # the server
    "an access token, as the server listens on {address}": "访问令牌，因为服务器监听 {address}",
    "every network interface": "所有网络接口",
    "leave {variable} out, and a token is made at start, or listen on 127.0.0.1": "不设置 {variable}（启动时会生成令牌"
    "），或只监听 127.0.0.1",
}
