"""The walk-through for first-time users."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "Walk-through": "使用导览",
    "**New here?** Two minutes through kvlab, on the bundled sample.": (
        "**第一次使用？** 用自带样例，两分钟了解 kvlab。"
    ),
    "Start": "开始",
    "Never show again": "不再显示",
    "Back": "上一步",
    "Next": "下一步",
    "Close": "关闭",
    "Done": "完成",
    "The finding": "结论",
    "A finished sample: two small models that were really trained. Each cell is one student head; dark is an "
    "error near 0, “=” marks a head for which the teacher says no more than its controls do.": (
        "这是一份已完成的样例分析：两个真正训练过的小模型。每个格子是学生的一个头；颜色越深误差越接近 0，"
        "“=”表示教师并不比对照解释得更多。"
    ),
    "One head beside its controls": "一个头与它的对照",
    "Click a cell, or pick a row of the table. A score means something only beside its controls: what the token "
    "alone says, what a teacher of random weights says, what shuffled rows say.": (
        "点击格子，或在表格中选一行。分数只有与对照并列才有意义：仅凭词元能解释多少、随机权重的教师能解释多少、"
        "打乱行之后又能解释多少。"
    ),
    "Two tokenizers on one text": "同一文本，两个分词器",
    "Which teacher step stands for a student step is decided on bytes. The rule chosen here is worth more than "
    "the projector: see where the borders of the tokens meet and where they drift.": (
        "学生的每一步对应教师的哪一步，由字节位置决定。这里的规则比投影器更重要：看看词元边界在哪里重合、在哪里错开。"
    ),
    "Which layers explain which": "哪些层解释哪些层",
    "How alike every teacher layer is to every student layer, beside what shuffled rows would show, and the "
    "layers that were chosen on held-out text.": (
        "每个教师层与每个学生层有多相似，旁边是打乱行之后的结果，以及在留出文本上选出的层。"
    ),
    "Whether the student can use it": "学生能否使用它",
    "How near the projection comes does not say whether the student can go on from it. Here it does, beside its "
    "own cache and four controls; and head by head, which error costs anything.": (
        "投影有多接近，并不说明学生能否据此续写。这里真正让它续写，并与自身缓存和四个对照并列；还逐头显示哪些误差真有代价。"
    ),
    "Your own prompts": "自己的提示",
    "Paste or upload them, choose two models by name or folder: whether they fit in memory is said before a "
    "weight is loaded. The analysis goes on when you close this page.": (
        "粘贴或上传提示，按名称或文件夹选择两个模型：加载任何权重之前就会告知内存是否够用。关闭页面后分析仍会继续。"
    ),
    "Does a 100-step run work?": "100 步训练能跑通吗？",
    "One click launches a short distillation run in a process of its own. Close the laptop, come back, read "
    "the verdict; launch its controls as well, because a falling KV loss alone proves nothing.": (
        "一键启动独立进程中的短程蒸馏训练。合上电脑，回来再看结论；也请启动对照，因为仅仅 KV 损失下降并不能说明问题。"
    ),
    "Everything stays on disk": "一切都保存在磁盘上",
    "All runs are here after a restart of the server: lay them over each other, see which settings differ, "
    "take the report with you.": "服务器重启后所有运行仍在这里：可以叠加比较、查看设置差异、带走报告。",
}
