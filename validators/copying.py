"""Words of a prompt that ask for a copy of what it holds: an answer that stands there is then no leak.

English, French, German, Spanish, Portuguese, Italian, Chinese, Japanese, Korean, Russian, Arabic and Hindi.
"""

import re

_COPIES = (
    r"\b(?:extract|quot(?:e|es|ing|ation)\b|verbatim|cop(?:y|ies)\b|repeat|recite|echo\b|rewrit|reword|rephras|paraphras"
    r"|correct (?:the|this|any|all|these|those|following|my|it|grammar|spelling|errors?|mistakes?|punctuation)"
    r"|proofread|grammar|grammatical|spelling|typos?\b|punctuat|edit\b|edit(?:ed|ing|or) |revis(?:e|ion)|translat"
    r"|transcri|transliterat|format the|reformat|indent|unscrambl|reorder|rearrang|highlight|underline|lower[- ]?case"
    r"|(?:remove|delete|strip|fix|convert|clean|clean up) (?:the|this|these|any|all|every|it)\b"
    r"|upper[- ]?case|capitali[sz]|shorten|simplif|summari[sz]|refactor|word for word|once more|one more time"
    r"|exact(?:ly)? (?:words?|sentence|passage|phrase|text|as)"
    r"|(?:say|write|send|show|give|tell)(?: me| us)? (?:it|that|this) (?:again|back)"
    r"|what (?:did )?i (?:just )?(?:say|said|write|wrote)|my (?:last|first|previous|earlier) (?:message|sentence)"
    r"|yaml\b|toml\b|config|(?:student|candidate|speaker|author)\b|according to)",
    r"\b(?:corrige|corrij|traduis|traduire|traduction|traduc|traduz|r[eé]p[eèé]t|repit|ripet|recopi|copia|copie[rz]?\b"
    r"|extra(?:is|ire|e|y|i[rg]a?)\b|estra[ei]|cite[rz]?\b|cita\b|reformul|r[eé]écri|reescrib|reescrev|riscriv|orthograph"
    r"|ortogra|gramm|gramátic|gramatic|r[eé]sum|riassum|mot pour mot|palabra por palabra|textual"
    r"|parola per parola|corregg|relis|correggi|correzion|redis\b|encore une fois|otra vez|de novo|ancora una volta)",
    r"(?:korrig|berichtig|übersetz|wiederhol|abschreib|extrahier|zitier|umformulier|rechtschreib|wörtlich|lektorier"
    r"|zusammenfass|\bfass[et]?\b|noch einmal|nochmal|verbesser)",
    r"[翻訳译譯]|纠正|改正|修[改正]|润色|重复|复述|再说|提取|抽取|摘[录要]|引用|抄写|改写|病句|校[对正]|总结|概括|訂正|添削"
    r"|繰り返|もう一度|抜き出|抽出|書き換え|要約|そのまま|번역|수정|교정|반복|다시|추출|인용|요약"
    r"|перевед|перевод|исправ|повтор|извлек|цитир|цитат|перепиш|выпиш|дословно|еще раз|ещё раз|ترجم|صحح|كرر|استخرج"
    r"|अनुवाद|दोहरा",
)
_ORDINAL = r"(?:first|second|third|fourth|fifth|last|final|next|middle|[0-9]{1,3}(?:st|nd|rd|th))"
_PIECE = r"(?:sentence|paragraph|line|passage|phrase|text|verse|stanza|step|word|quote)s?"
_CHOICES_AND_SOURCES = (
    rf"\b(?:choose|select|pick|options?\b|choices?\b|{_ORDINAL} (?:\w+ )?{_PIECE}\b"
    r"|which (?:one|of|sentence|statement|option|passage|paragraph|line|answer|response|title|headline|review|version)"
    rf"|(?:find|identify|locate|give|return|print|output) the (?:\w+ )?{_PIECE}\b"
    rf"|(?:this|these|that|those|the|my|given|following|which|each) {_PIECE}\b|following\b|based on|classif"
    r"|categori[sz]|improv|polish|make (?:this|it|the|my)\b|bug\b|debug|optimi[sz]|lint\b|context\b|passage\b|text:"
    r"|continue\b|complete\b|article\b|excerpt|documents?\b|paragraph\b|stanza\b|headline|(?:poem|lyrics|abstract|email|input|source|note|tweet|review)s?:)",
    r"\b(?:zeile|satz|strophe|absatz|kontext|laut |phrase|vers\b|ligne|contexte|texte|d'après|selon|línea|frase|verso"
    r"|contexto|texto|según|segundo o|riga|linha|contesto|testo|secondo il|parágrafo|párrafo|wähle|choisis|elige|scegli"
    r"|escolha|folgende|suivant|siguiente|seguente|seguinte|améliore|mejora|migliora|melhore|строк|предложени|абзац|текст"
    r"|выбер|согласно|контекст)|\btext\b",
    r"上下文|文章|原文|根据|以下|下面|哪一|选择|选出|文脈|本文|次の|によると|選[びん]|다음|문장|본문|고르",
)
_ASKED = re.compile("|".join(_COPIES))
_OFFERED = re.compile("|".join(_COPIES + _CHOICES_AND_SOURCES))


def asks_for_a_copy(folded: str) -> bool:
    """Whether a case-folded text asks to repeat, extract, translate, correct or otherwise rework what is there."""
    return _ASKED.search(folded) is not None


def offers_a_copy(folded: str) -> bool:
    """Whether it does, or gives a passage, lines or options of which an answer may be one."""
    return _OFFERED.search(folded) is not None
