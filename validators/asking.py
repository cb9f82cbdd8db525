"""Whether what stands before a labelled answer asks for it, or gives it as a text that is to be worked on.

A worked solution, a record of a data set or someone's reply ends with a labelled answer as well, and the turn then asks
for something to be done with it. So the question has to stand right before the label, options apart; what stands on
the lines before the question has to tell to answer it, or be a field such as "Context:"; and nothing may speak of an
answer that is there already. In English, German, French, Spanish, Portuguese, Italian, Chinese, Japanese, Korean and
Russian. All texts are case-folded, with white space collapsed and line ends kept.
"""

import re

LOOKED_AT_CHARS = 4000
"""How far before a label its question is looked for, and how far from both ends of a text what is asked for."""

_OPTION_LINE = re.compile(r"[ *_]*(?:\(?(?:[a-z]|[ivx]{1,4}|[0-9]{1,2})[).:]|[-*•]) *\S")
_SENTENCES = re.compile(r"(?<=[.!?]) |(?<=[。！？])")
_MARKED = re.compile(r"[?？؟=＝][ *_)\"'”’]*$|か[。.]?$")
_WORD_THAT_ASKS = re.compile(
    r"[*_¿ ]*(?:(?:please|now|bitte) )?(?:"
    r"what|who|whom|whose|when|where|which|why|how|compute|calculate|solve|name the|determine|work out|find [a-z]\b|"
    r"was|wer|wie|wann|wo|welche[rsn]?|warum|berechne|nenne|löse|combien|quel(?:le)?s?|qui|où|quand|pourquoi|calculez?|"
    r"cu[aá]ntos?|cu[aá]l|qui[eé]n|qu[eé]|d[oó]nde|cu[aá]ndo|calcula|calcule|resuelve|quant[oi]|quale?|chi|dove|calcola|"
    r"qual|quem|onde|сколько|кто|что|где|когда|как(?:ой|ая|ое|ие)?|вычисли(?:те)?|назови(?:те)?|реши(?:те)?"
    r")\b|(?:计算|計算|求)|[^。]*(?:多少|是什么|是谁|哪[个里]|얼마|무엇|누구)"
)
_FIELD = re.compile(r"[*_# ]*([^\W\d_]+(?: [^\W\d_]+){0,2})(?: ?#?\d+)?[*_]* ?[:：]")
_QUESTION_IN_A_LINE = re.compile(r"(?<=[.!:]) (?=(?:question|q|problem)(?: ?#?\d+)? ?:)")
_FIELDS_OF_A_QUESTION = re.compile(
    r"(?P<name>(?:(?:the|my|next|quick|trivia|math|word) )?(?:question|q|problem|exercise|task|quiz|riddle|prompt"
    r"|instruction|input|query|context|passage|text|story|facts?|premise|hypothesis|frage|aufgabe|kontext|exercice|contexte"
    r"|pregunta|problema|contexto|pergunta|domanda|contesto|вопрос|задача|контекст|问题|問題|質問|问|題|题目|질문|문제))$"
    r"|(?:true or|yes or|compute|calculate|solve|what|who|when|where|which|why|how)\b"
)
_TELLS_TO_ANSWER = re.compile(
    r"(?:^|\n|[.!?。！？] ?)[*_# ]*(?:(?:please|now|then|bitte) )?(?:"
    r"(?:answer|solve|compute|calculate|work (?:it )?out|respond|reply (?:with|in))\b(?! ?[:：])|be (?:brief|concise)|"
    r"(?:choose|select|pick) the (?:correct|right|best|letter|option)|(?:think|reason) (?:step|care|about)|"
    r"you are (?:[^\W\d_]+ ){0,4}(?:assistant|tutor|teacher|expert|professor|ai)\b|"
    r"(?:beantworte|löse|berechne|wähle|réponds|répondez|résous|résolvez|responde|resuelve|risponde?te|rispondi|risolvi|"
    r"responda|resolva|ответь|ответьте|реши|решите)\b|回答|请回答|解答|"
    r"(?:context|passage|text|premise|story|kontext|contexte|contexto|contesto|контекст|背景|文脈)[*_]* ?[:：])"
    r"|(?:read|lies|lis|lee|leggi|leia)\b.{0,60}\b(?:answer|beantworte|réponds|responde|rispondi|responda)\b|に答え|답하"
)
_SPOKEN_OF = (
    r"\b(?:(?:the|this|that|these|those|each|every|an?|its|his|her|their|my|one|some\w+|[^\W\d_]+['’]s?) "
    r"(?:(?!and |or |to |then )[^\W\d_]+ ){0,2}(?:answers?|repl(?:y|ies)|responses?|outputs?|results?|verdicts?"
    r"|guess(?:es)?|predictions?)\b|question and answer\b"
    r"|(?<!your )final (?:number|answer|result|value|line|choice)|answers\b|replies\b|responses\b"
    r"|(?<!your )(?:solutions?|reasoning|rationale|derivation|proof|thoughts?)\b|chain[- ]of|\bworked\b|workings?\b"
    r"|annotat|crowd|raters?\b|labell?ers?\b|pupil|homework|respondent|contestant|interview|survey|transcript|chatbot"
    r"|completions?\b|conclu(?:de|sion)|arrives? at|ends? (?:up )?with|no explanation|disagree|adjudicat|grader|grading"
    r"|censor|profan|redact|anonymi[sz]|saniti[sz]|canonicali[sz]|normali[sz]|standardi[sz]|post-?process"
    r"|(?:clean|formatt|extract|scor|judg|review|moderat|evaluat|validat|verif|examin|aggregat|convert|pars|transform|check"
    r"|referee)(?:i?er|or)s?\b)",
    r"(?:^|[\n.!?:;,(] ?|\b(?:and|or|then|please|to|only|just|you) )"
    r"(?:round|strip|trim|parse|return|output|print|format|convert|cast|map|mask|clean|tidy|verify|validate|check|confirm"
    r"|grade|judge|score|rate|assess|evaluate|compare|review|resolve|keep|drop|isolate|pull|take|copy|say|state|tag|split"
    r"|store|record|give (?:back|only|just)|lower|digits)\b",
    r"(?:ergebnis|lösung|rechenweg|antworten\b|(?:die|der|eine|diese[rn]?|seine|ihre) (?:\w+ )?antwort\b|rund(?:e|en)\b"
    r"|prüf|bewert|bereinig|normier|normalisier|vereinheitlich|gib (?:nur|bloß)|\bnenne nur)",
    r"\b(?:(?:la|une|cette|sa|leur) (?:\w+ )?réponse|réponses\b|solution|raisonnement|résultat|arrondi|vérifi|évalu"
    r"|not[eé]r?\b|normalis|nettoi|renvoi|ne donne|donne (?:uniquement|seulement|juste))",
    r"\b(?:(?:la|una|esta|su) (?:\w+ )?(?:respuesta|risposta)|questa risposta|(?:a|uma|esta|sua) (?:\w+ )?resposta"
    r"|respuestas|risposte|respostas|soluci[oó]n|soluzione|solução|razonamiento|ragionamento|raciocínio|resultado|risultato"
    r"|redonde|arrotond|arredond|verific|comprueb|controll|eval[uú]|valut|avali|normali[sz]z?|devuelve|restitu|devolv)",
    r"答案|回答(?!.{0,12}(?:问题|問題))|答え(?!て|る|よ|な)|解答(?!.{0,12}(?:问题|問題))|解法|推理|思路|结论|結論|结果|結果|四舍五入|四捨五入|检查|核对"
    r"|评[分判价]|规范化|標準化|标准化|正規化|只[输返]|정답|풀이|결론|결과|반올림|확인|채점",
    r"\b(?:решени|рассужден|вывод|результат|ответ(?:а|ы|ов|ом|е)?\b|округл|провер|оцен|нормализ|верни)",
)
_SPEAKS_OF_AN_ANSWER = re.compile("|".join(_SPOKEN_OF))
_CHOOSE_THE_ANSWER = re.compile(
    r"\b(?:choose|select|pick|write|give|find|mark)(?: only)? the (?:single )?(?:correct|right|best) (?:answer|option)"
)


def speaks_of_an_answer(folded: str) -> bool:
    """Whether a text, or a long one's two ends, speaks of an answer that is there already or of work done on one."""
    if len(folded) > 2 * LOOKED_AT_CHARS:
        folded = f"{folded[:LOOKED_AT_CHARS]}\n{folded[-LOOKED_AT_CHARS:]}"
    return _SPEAKS_OF_AN_ANSWER.search(_CHOOSE_THE_ANSWER.sub("", folded)) is not None


def tells_to_answer(folded: str) -> bool:
    """Whether a text tells to answer what follows it, says who is asked, or is a field such as "Context:"."""
    return _TELLS_TO_ANSWER.search(folded[:LOOKED_AT_CHARS]) is not None


def ends_with_its_question(asked: str) -> bool:
    """Whether a text that a label follows ends with a question of its own, or with options."""
    asked = _QUESTION_IN_A_LINE.sub("\n", asked[-LOOKED_AT_CHARS:])
    lines = asked.rstrip(" \n*_#>([<-").split("\n")
    question = len(lines)
    while question and _OPTION_LINE.match(lines[question - 1]):
        question -= 1
    if not question:
        return True
    if question > 1 and _FIELD.fullmatch(lines[question - 2]):
        lines[question - 2 : question] = [" ".join(lines[question - 2 : question])]
        question -= 1
    lead = "\n".join(lines[: question - 1])
    return _is_question(lines[question - 1]) and (not lead or tells_to_answer(lead))


def begins_with_its_question(asked: str) -> bool:
    """Whether a text asks in its first line, and ends where a label has a line of its own."""
    return asked.endswith("\n") and "?" in asked.partition("\n")[0]


def _is_question(line: str) -> bool:
    if field := _FIELD.match(line):
        if not (known := _FIELDS_OF_A_QUESTION.match(field[1])):
            return False
        line = line[field.end() :] if known["name"] else line
    last = [sentence for sentence in _SENTENCES.split(line) if sentence.strip()][-1:]
    return bool(last) and (_MARKED.search(last[0]) or _WORD_THAT_ASKS.match(last[0])) is not None
