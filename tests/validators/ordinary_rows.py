"""Rows as instruction data have them, whose answers stand in their prompts for a good reason; and true leaks.

A row is its turns, user and assistant in turn; one that begins with `system:` is a system turn.
"""

MEETING = "The committee met on Tuesday to discuss the new budget and agreed to postpone the vote until next month."
REFUSAL = "I'm sorry, but I could not find an answer to that question in the documents you have provided to me."
GREETING = "Hello, I am Ava, the assistant of the city library; how can I help you with your books today?"
COMITE = "Le comité s'est réuni mardi pour discuter du nouveau budget et a décidé de reporter le vote au mois prochain."
AUSSCHUSS = (
    "Der Ausschuss kam am Dienstag zusammen, beriet den neuen Haushalt und verschob die Abstimmung um einen Monat."
)
COMISION = (
    "La comisión se reunió el martes para debatir el nuevo presupuesto y aplazó la votación hasta el mes que viene."
)
HUIYI = (
    "委员会于星期二召开会议讨论新的预算方案并决定将表决推迟到下个月举行"
    "届时所有委员都将出席并公开说明各自的立场和理由以便公众了解情况"
)
HEART = "The heart is a muscle that pumps blood through the body and beats about one hundred thousand times every day."
STANZA = (
    "The sea was calm and the wind was low on the evening that we sailed from home\n"
    "And all of the sailors sang the song that their fathers had taught them long ago\n"
    "Until the lights of the harbour were gone from sight beneath the silver foam"
)
LOOP = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result"

WORKED = "Tom has 19 apples and buys 74 more, so he has 19 + 74 = 93 apples."
GIVEN = {
    "final number of a worked solution": (
        f"Return only the final number of this worked solution.\n\n{WORKED} The answer is 93.",
        "93",
    ),
    "number that a reasoning ends with": (
        f"What number does the following reasoning conclude with?\n\n{WORKED} The answer is 93.",
        "93",
    ),
    "answer parsed from a chain of thought": (
        f"Parse the final answer out of this chain of thought.\n\n{WORKED} The answer is 93.",
        "93",
    ),
    "answer of a reasoning as an integer": (
        f"Give the final answer of the reasoning below as an integer.\n\n{WORKED}\nAnswer: 93",
        "93",
    ),
    "result without explanation": (f"Output just the result, no explanation.\n\n{WORKED}\nAnswer: 93", "93"),
    "solution as GSM8K has it": (f"Only the number, please.\n\n{WORKED}\n#### 93", "93"),
    "solution with its question": (f"Number only.\nHow many apples has he?\n{WORKED}\nThe answer is 93.", "93"),
    "bare solution": (f"{WORKED} The answer is 93.", "93"),
    "solution after an instruction in the system turn": (
        "system:You turn worked solutions into numbers.",
        "How many apples has he? Answer: 93",
        "93",
    ),
    "format that the system turn describes": (
        "system:Write what stands behind 'Answer:'.",
        "What is the capital of Peru? Answer: Lima",
        "Lima",
    ),
    "reply without profanity": (
        "Censor profanity in the reply; leave clean replies as they are.\nResponse: It is out of stock",
        "It is out of stock",
    ),
    "reply of a dialogue": (
        "Mask all names.\nCustomer: Where is my parcel?\nResponse: It is on its way",
        "It is on its way",
    ),
    "answer of a crowd worker": (
        "Canonicalise the crowd worker's reply for scoring.\nQuestion 7: How many?\nAnswer: 3",
        "3",
    ),
    "answer to be rounded": ("Round to the nearest integer.\nHow tall is it?\nAnswer: 3", "3"),
    "answer to be rounded, on one line": ("Round the answer. How tall is it? Answer: 3", "3"),
    "record of a table": ("Digits only, for the database.\nQuestion: How many?\nAnswer: 3", "3"),
    "disagreement of annotators": (
        "Two annotators answered. Resolve the disagreement.\nWhich city was it?\nFirst annotator: Oslo\n"
        "Second annotator's verdict. Answer: Bern",
        "Bern",
    ),
    "answer to be checked": ("Check the answer and give the right one.\nWhat is 6*7?\nAnswer: 42", "42"),
    "consistency": ("Is the model's answer consistent? The answer is 11.", "11"),
    "options with their answers": ("Which is bigger?\nResponse A: cat\nResponse B: dog\nCorrect answer: dog", "dog"),
    "German rounding": ("Runde das Ergebnis.\nWie hoch ist er?\nAntwort: 3", "3"),
    "German solution": (f"Nenne nur die Zahl am Ende des Rechenwegs.\n{WORKED}\nDie Antwort ist 93.", "93"),
    "German answer": ("Wie lautet die Antwort? Antwort: ja", "ja"),
    "French reasoning": (f"Donne le résultat du raisonnement.\n{WORKED}\nLa réponse est 93.", "93"),
    "French check": ("Vérifie la réponse.\nCombien font 6*7 ?\nRéponse : 42", "42"),
    "Spanish reasoning": (f"Devuelve solo el número final.\n{WORKED} La respuesta es 93.", "93"),
    "Spanish answer": ("¿Cuál es la respuesta correcta? La respuesta es Madrid", "Madrid"),
    "Italian check": ("Controlla questa risposta.\nQuanto fa 6*7?\nRisposta: 42", "42"),
    "Portuguese rounding": ("Arredonde a resposta.\nQuanto é 6*7?\nResposta: 42", "42"),
    "Chinese rounding": ("请四舍五入。\n6乘7是多少？\n答案：42", "42"),
    "Chinese solution": (f"只写最后的数字。\n{WORKED}\n答案：93", "93"),
    "Japanese check": ("以下の答えは正しいですか？ 答え: 東京", "東京"),
    "Russian check": ("Проверь решение.\nСколько будет 6*7?\nОтвет: 42", "42"),
}
"""Answers that the prompt gives, to be taken out or worked on."""
ORDINARY = {
    **GIVEN,
    "refusal that the system turn prescribes": (
        "system:If asked about medicine say: 'I cannot help with that.'",
        "Which pills shall I take?",
        "I cannot help with that.",
    ),
    "long refusal that the system turn prescribes": (
        f"system:Answer from the documents only. If the answer is not in them, say:\n{REFUSAL}",
        "Who won the cup in 1954?",
        REFUSAL,
    ),
    "refusal that is the whole system turn": (f"system:{REFUSAL}", "Who won the cup in 1954?", REFUSAL),
    "answer that the system turn labels": (
        f"system:Stay on the subject. For anything else, response: {REFUSAL}",
        "Tell me a joke.",
        REFUSAL,
    ),
    "greeting that the system turn prescribes": (
        f"system:You are Ava. Open every conversation with this greeting:\n{GREETING}",
        "hi",
        GREETING,
    ),
    "frequent question": (
        "system:You answer for a shop.\nQuestion: When do you open?\nAnswer: At nine.\n"
        "Question: And close?\nAnswer: At six.",
        "When are you closing?",
        "At six.",
    ),
    "shots in the system turn": (
        "system:Classify the review.\nReview: I love it!\nLabel: positive",
        "Review: Great film, would watch again.\nLabel:",
        "positive",
    ),
    "multiple choice shot in the system turn": (
        "system:Q: What is red? A) blood B) grass\nCorrect answer: A",
        "Q: What is green? A) leaves B) snow",
        "A",
    ),
    "multiple choice shot on one line": (
        "system:Q: Is red a) warm or b) cold? Correct answer: a",
        "Q: Is blue a) cold or b) warm?",
        "a",
    ),
    "grammar checker": (
        "system:You are a grammar checker. Return the corrected sentence and nothing else.",
        MEETING,
        MEETING,
    ),
    "translator, of what is English": ("system:Translate all that the user writes into English.", MEETING, MEETING),
    "asked to repeat later": (
        MEETING,
        "Thank you. What shall I do with it?",
        "Repeat it word for word, please.",
        MEETING,
    ),
    "asked to say it again": (
        f"Remember this. {MEETING}",
        "I have it in mind.",
        "Now say that again.",
        MEETING,
    ),
    "what did I write": (MEETING, "I see.", "What did I just write?", MEETING),
    "line of a stanza": (f"Give me the second line of this stanza.\n{STANZA}", STANZA.split("\n")[1]),
    "last line of a poem": (f"{STANZA}\n\nWhat is the last line?", STANZA.split("\n")[2]),
    "French correction": (f"Corrige la phrase suivante si nécessaire :\n{COMITE}", COMITE),
    "French copy": (f"Recopiez ceci sans rien changer :\n{COMITE}", COMITE),
    "German correction": (f"Bitte korrigiere:\n{AUSSCHUSS}", AUSSCHUSS),
    "German extraction": (
        f"Welcher Satz handelt vom Haushalt?\n{AUSSCHUSS}\nDas Wetter war an diesem Tag sehr schlecht.",
        AUSSCHUSS,
    ),
    "Spanish extraction": (f"Extrae la información sobre el presupuesto.\n{COMISION}\nHizo mal tiempo.", COMISION),
    "Spanish copy": (f"Repite lo que digo: {COMISION}", COMISION),
    "Chinese polish": (f"请润色：{HUIYI}", HUIYI),
    "Chinese source": (f"根据下面的内容回答，何时表决？\n{HUIYI}", HUIYI),
    "closed question on a short source": (
        f"Context: {HEART}\nQuestion: What does the heart do?",
        HEART,
    ),
    "extract from documents": (
        f"Documents:\n[1] {HEART}\n[2] {MEETING}\n\nWhich of them speaks of money?",
        MEETING,
    ),
    "span of a passage": (f"Passage: {HEART}\nHow often does it beat every day?", "about one hundred thousand times"),
    "extraction of a label": ("Extract the final answer.\nWe add 40 and 2.\nThe answer is 42.", "42"),
    "answer of a student": ("What did the student put down?\nSix times seven.\nAnswer: 41", "41"),
    "edit of what is good": (f"Proofread:\n\n{HEART}", HEART),
    "improvement of what is good": (f"Improve this sentence.\n{HEART}", HEART),
    "summary of a sentence": (f"Summarize in one sentence: {HEART}", HEART),
    "title of a list": (
        f"Which title fits best?\n- {HEART[:-1]}\n- {MEETING[:-1]}\nIt is an article on the body.",
        HEART[:-1],
    ),
    "classification with its options": (
        "Is it positive or negative?\nI like it.\nLabel: positive or negative",
        "negative",
    ),
    "multiple choice": ("Which is a fruit?\nA) stone\nB) apple\nAnswer:", "B"),
    "multiple choice in full": (f"What is true?\n1. {HEART}\n2. The heart is made of stone.", HEART),
    "few shots": ("Q: 1 + 1\nAnswer: 2\n\nQ: 1 + 2\nAnswer:", "3"),
    "completion of code": (f"Complete the function.\n```python\n{LOOP[:40]}\n```", LOOP),
    "code without a bug": (f"Fix the bug, if there is one:\n{LOOP}", LOOP),
    "value of a variable": ("What is in result at the end?\nvalue = 3\nresult = 3", "3"),
    "key of a file": ("What is the target here?\nname: shop\ntarget: production", "production"),
    "value of a variable that is called answer": ("What does it hold?\nanswer = 42", "42"),
    "running result": ("Multiply it by 1.\nResult: 4", "4"),
    "printed text": ("What does this print?\nprint('Answer: 42')", "Answer: 42"),
    "condition": ("If it is even, the answer is yes.", "yes"),
    "sum": ("What is 42 + 0?", "42"),
    "sum of several turns": ("Add 1 and 1.", "2", "Now multiply 2 by 1.", "2"),
    "equation": ("x + 0 = 5. What is x? A number, please: 5 or 6", "5"),
    "simplification": ("Simplify 3/3 * x.\nResult: x", "x"),
    "form of the answer": ("Add 2 and 2. Reply in the format Answer: 4", "4"),
    "largest number": ("Which is the largest: 3, 9 or 4?", "9"),
    "digits": ("Write 1001 without spaces: 1001", "1001"),
}
LEAKS = {
    "word problem": ("Tom has 19 apples and buys 74 more. How many has he?\nAnswer: 93", "93"),
    "task": ("Compute 6 * 7.\nAnswer: 42", "42"),
    "equation": ("6 * 7 = \nAnswer: 42", "42"),
    "told to answer": ("Answer the following question.\n\nQuestion: What is 6*7?\nAnswer: 42", "42"),
    "told to choose": ("Choose the correct answer.\nWhich is a fruit?\nA) stone\nB) apple\nAnswer: B", "B"),
    "context": (f"Context: {HEART}\nQuestion: What pumps blood?\nAnswer: the heart", "The heart."),
    "brackets": ("What is the capital of Peru? [Answer: Lima]", "Lima"),
    "sentence in parentheses": ("What is the capital of Peru? (The correct answer is Lima)", "Lima"),
    "abbreviation": ("What is 6*7? Ans: 42", "42"),
    "ground truth": ("What is 6*7?\nGround truth: 42", "42"),
    "gold": ("What is the capital of Peru?\nGold: Lima", "Lima"),
    "target answer": ("What is the capital of Peru?\nTarget answer: Lima", "Lima"),
    "dash": ("What is the capital of Peru? answer - Lima", "Lima"),
    "hashes": ("What is 6*7?\n#### 42", "42"),
    "closing line": ("What is the capital of Peru? Answer: Lima\n\nReply now.", "Lima"),
    "answer that looks like a closing line": ("What do you do at green lights?\nAnswer:\ngo on", "Go on."),
    "number": ("What is 6 * 7? Answer: 42", "42"),
    "number in parentheses": ("What is 6*7? (Answer: 42)", "42"),
    "sentence": ("What is 6*7? The answer is 42.", "42"),
    "correct answer": ("What is 6*7?\n**Correct answer:** 42", "42"),
    "answer with a label": ("What is 6*7?\nSolution: 42", "Answer: 42"),
    "expected output": ("What is 6*7?\nExpected output: 42", "42"),
    "option": ("Which is a fruit?\nA) stone\nB) apple\nAnswer: B", "B"),
    "class": ("Is this positive? I like it.\nLabel: yes", "Yes."),
    "long answer": (f"How does the heart work?\n\nReference answer: {HEART}", HEART),
    "later turn": ("Hello.", "Hello!", "What is the capital of Peru? Expected output: Lima", "Lima"),
    "system turn": ("system:You are a tutor. Correct answer: 42", "What is 6 * 7?", "42"),
    "system turn with the question": (
        "system:Question: What is 6 * 7?\nExpected answer: 42",
        "What is 6 * 7?",
        "42",
    ),
    "system turn with the question on one line": ("system:What is 6 * 7? Right answer: 42", "What is 6 * 7?", "42"),
    "German": ("Was ist 6*7? Antwort: 42", "42"),
    "German sentence": ("Was ist 6*7? Die richtige Antwort ist 42.", "42"),
    "French": ("Combien font 6*7 ?\nRéponse : 42", "42"),
    "Spanish": ("¿Cuánto es 6*7? Respuesta: 42", "42"),
    "Italian": ("Quanto fa 6*7? La risposta è 42.", "42"),
    "Portuguese": ("Quanto é 6*7?\nResposta correta: 42", "42"),
    "Chinese": ("6乘7是多少？正确答案：42", "42"),
    "Japanese": ("6かける7は？\n答え：42", "42"),
    "Russian": ("Сколько будет 6*7?\nОтвет: 42", "42"),
}
"""What rejects a row."""
UNLABELLED = {
    "at the end": (f"How does the heart work? {HEART}", HEART),
    "on lines of its own": (f"How does the heart work?\n{HEART}\nAnswer in one sentence.", HEART),
    "the whole turn": (HEART, HEART),
    "in an earlier turn": (f"How does the heart work? Hint: {HEART}", "Well.", "And again, please?", HEART),
}
"""What warns."""
