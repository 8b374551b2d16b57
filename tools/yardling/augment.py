"""Small honest damage to a question: case, punctuation, politeness, contractions, synonyms, dropped words, typos.

Changes how something is asked, never what is asked: command names and numbers are left alone.
"""

from __future__ import annotations

import re
from random import Random

from .corpus import read

CONTRACTIONS = (
    ("What is", "What's"),
    ("How is", "How's"),
    ("Where is", "Where's"),
    ("I am", "I'm"),
    ("I would", "I'd"),
    ("do not", "don't"),
    ("is not", "isn't"),
    ("I have", "I've"),
    ("What is", "Whats"),
    ("I want to", "I wanna"),
)
DROPPABLE = {"the", "a", "an", "my", "do", "is", "to", "I", "me", "of", "are", "does", "can", "it"}
SYNONYMS = {
    "en": {
        "see": ["view", "look at", "check"],
        "find": ["locate", "discover"],
        "start": ["launch", "begin"],
        "get": ["obtain"],
        "model": ["LLM", "language model"],
        "models": ["LLMs", "language models"],
        "server": ["service"],
        "use": ["work with", "employ"],
        "show": ["display"],
        "check": ["verify", "look at"],
        "memory": ["RAM"],
        "command": ["instruction", "subcommand"],
        "need": ["have", "want"],
        "keep": ["hold"],
        "change": ["adjust", "alter"],
        "see all": ["view all"],
        "folder": ["directory"],
        "quick": ["fast"],
        "question": ["query"],
        "example": ["sample"],
        "make": ["create"],
        "add": ["include"],
        "know": ["learn"],
        "loaded": ["in memory"],
        "available": ["there"],
        "right now": ["currently"],
        "installed": ["present"],
    },
    "zh_TW": {
        "怎麼": ["怎樣", "如何"],
        "查看": ["檢視", "看"],
        "模型": ["語言模型", "LLM"],
        "知道": ["了解"],
        "伺服器": ["服務"],
        "使用": ["用", "利用"],
        "指令": ["命令"],
        "看": ["查"],
        "資料夾": ["目錄"],
        "現在": ["目前", "當下"],
        "哪些": ["什麼"],
        "顯示": ["列出"],
        "設定": ["組態"],
        "範例": ["例子"],
        "問題": ["提問"],
        "請問": ["想問"],
        "記憶體": ["RAM"],
        "哪裡": ["哪邊"],
        "多少": ["多大"],
    },
    "zh_CN": {
        "怎么": ["怎样", "如何"],
        "查看": ["查询", "看"],
        "模型": ["语言模型", "LLM"],
        "知道": ["了解"],
        "服务器": ["服务"],
        "使用": ["用", "利用"],
        "命令": ["指令"],
        "看": ["查"],
        "文件夹": ["目录"],
        "现在": ["目前", "当前"],
        "哪些": ["什么"],
        "显示": ["列出"],
        "设置": ["配置"],
        "示例": ["例子"],
        "问题": ["提问"],
        "请问": ["想问"],
        "内存": ["RAM"],
        "哪里": ["哪儿"],
        "地址": ["网址"],
    },
}
FILLERS = {
    "zh_TW": {"的": "", "要": "", "請問": "", "嗎？": "？", "可以": "", "一個": "", "把": "將", "，": " "},
    "zh_CN": {"的": "", "要": "", "请问": "", "吗？": "？", "可以": "", "一个": "", "把": "将", "，": " "},
}
ENDS = ("", "", "", "?", "!", ".", "??", "...", " ?")
ENDS_ZH = ("", "", "", "？", "?", "！", "。", "？？", "…", "～")


def vary(text: str, language: str, rng: Random, *, exact: bool = False) -> str:
    """The question as somebody else might type it. `exact` keeps the words: sums and names are not guessed at."""
    if not exact:
        if rng.random() < 0.35:
            text = swap_synonym(text, language, rng)
        if rng.random() < 0.2:
            text = drop(text, language, rng)
        if language == "en" and rng.random() < 0.2:
            text = typo(text, rng)
    if language == "en" and rng.random() < 0.3:
        text = contract(text, rng)
    if rng.random() < 0.2:
        text = be_polite(text, language, rng)
    if rng.random() < 0.45:
        end = rng.choice(ENDS if language == "en" else ENDS_ZH)
        text = text.rstrip("?？.。!！ ") + end
    case = rng.random()
    if case < 0.25:
        text = text.lower()
    elif case < 0.28:
        text = text.upper() if "modelyard " not in text else text
    return text


def swap_synonym(text: str, language: str, rng: Random) -> str:
    table = SYNONYMS[language]
    found = [word for word in table if occurs(word, text, language)]
    if not found:
        return text
    word = rng.choice(found)
    other = rng.choice(table[word])
    if language == "en":
        return re.sub(rf"\b{re.escape(word)}\b", other, text, count=1)
    return text.replace(word, other, 1)


def occurs(word: str, text: str, language: str) -> bool:
    if language == "en":
        return re.search(rf"\b{re.escape(word)}\b", text) is not None
    return word in text


def drop(text: str, language: str, rng: Random) -> str:
    if language == "en":
        words = text.split(" ")
        places = [i for i, word in enumerate(words) if word in DROPPABLE]
        if places and len(words) > 3:
            del words[rng.choice(places)]
        return " ".join(words)
    found = [word for word in FILLERS[language] if word in text]
    if not found or len(text) < 6:
        return text
    word = rng.choice(found)
    return text.replace(word, FILLERS[language][word], 1)


def typo(text: str, rng: Random) -> str:
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not places:
        return text
    at = rng.choice(places)
    word = words[at]
    i = rng.randrange(1, len(word) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        word = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    elif kind == 1:
        word = word[:i] + word[i + 1 :]
    else:
        word = word[:i] + word[i] + word[i:]
    words[at] = word
    return " ".join(words)


def contract(text: str, rng: Random) -> str:
    found = [pair for pair in CONTRACTIONS if pair[0] in text]
    if not found:
        return text
    return text.replace(*rng.choice(found), 1)


def be_polite(text: str, language: str, rng: Random) -> str:
    source = read(language)
    if rng.random() < 0.6:
        return str(rng.choice(source["polite_before"])) + text
    return text.rstrip("。.") + str(rng.choice(source["polite_after"]))
