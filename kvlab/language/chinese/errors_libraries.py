"""What libraries and the operating system say inside a message of kvlab: pydantic, json, csv, errno."""

from __future__ import annotations

MESSAGES: dict[str, str] = {
    "no message": "没有说明",
    # pydantic
    "{where}: Input should be {values} or {last}": "{where}：应为 {values} 或 {last}",
    "{where}: Input should be {value}": "{where}：应为 {value}",
    "{where}: Input should be greater than {n}": "{where}：应大于 {n}",
    "{where}: Input should be greater than or equal to {n}": "{where}：应大于或等于 {n}",
    "{where}: Input should be less than {n}": "{where}：应小于 {n}",
    "{where}: Input should be less than or equal to {n}": "{where}：应小于或等于 {n}",
    "{where}: Input should be a valid integer, unable to parse string as an integer": "{where}：应为整数，无法从字符串"
    "解析",
    "{where}: Input should be a valid integer, got a number with a fractional part": "{where}：应为整数，而数字带有小"
    "数部分",
    "{where}: Input should be a valid integer": "{where}：应为整数",
    "{where}: Input should be a valid number, unable to parse string as a number": "{where}：应为数字，无法从字符串解"
    "析",
    "{where}: Input should be a valid number": "{where}：应为数字",
    "{where}: Input should be a finite number": "{where}：应为有限的数字",
    "{where}: Input should be a valid boolean, unable to interpret input": "{where}：应为真或假，无法理解输入",
    "{where}: Input should be a valid boolean": "{where}：应为真或假",
    "{where}: Input should be a valid string": "{where}：应为字符串",
    "{where}: Input should be a valid tuple": "{where}：应为列表",
    "{where}: Input should be a valid dictionary or instance of {kind}": "{where}：应为设置表（{kind}）",
    "{where}: Extra inputs are not permitted": "{where}：没有这一项设置",
    "{where}: Field required": "{where}：必须给出",
    "{where}: String should match pattern {pattern}": "{where}：应符合 {pattern}",
    "{where}: String should have at least {n} character": "{where}：至少应有 {n} 个字符",
    "{where}: String should have at most {n} characters": "{where}：至多应有 {n} 个字符",
    "{where}: Tuple should have at least {n} item after validation, not {found}": "{where}：至少应有 {n} 项，而不是 "
    "{found} 项",
    # json
    "Expecting value": "应有一个值",
    "Expecting property name enclosed in double quotes": "应有双引号中的属性名",
    "Expecting ':' delimiter": "应有分隔符 ':'",
    "Expecting ',' delimiter": "应有分隔符 ','",
    "Illegal trailing comma before end of object": "对象末尾有多余的逗号",
    "Illegal trailing comma before end of array": "数组末尾有多余的逗号",
    "Extra data": "有多余的数据",
    "Unterminated string starting at": "字符串没有结束，始于",
    "Invalid control character at": "无效的控制字符，位于",
    "Invalid \\escape": "无效的转义 \\",
    "Invalid \\uXXXX escape": "无效的 \\uXXXX 转义",
    "{line} ({name} is not JSON)": "{line}（{name} 不是 JSON）",
    # csv
    "unexpected end of data": "数据意外结束",
    "'{mark}' expected after '{quote}'": "'{quote}' 之后应为 '{mark}'",
    # the operating system
    "No such file or directory": "没有这个文件或文件夹",
    "Permission denied": "权限不足",
    "Not a directory": "不是文件夹",
    "Is a directory": "是文件夹",
    "File exists": "文件已存在",
    "File name too long": "文件名过长",
    "No space left on device": "设备上没有剩余空间",
    "Disk quota exceeded": "超出磁盘配额",
    "Read-only file system": "只读文件系统",
    "Input/output error": "输入输出错误",
    "Stale file handle": "文件句柄已失效",
    "Too many open files": "打开的文件过多",
    "Cannot allocate memory": "无法分配内存",
    "Resource temporarily unavailable": "资源暂时不可用",
    "No locks available": "没有可用的锁",
    "Operation not permitted": "不允许此操作",
    "Operation not supported": "不支持此操作",
}
