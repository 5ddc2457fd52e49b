"""Customer service that hands over to a person when the model is not sure.

    python3 customer_service.py "Hello"

`confidence` brings the mean and the lowest probability of the answer's tokens. The lowest is the
better alarm: one number or name in doubt hides in the mean of a long answer. Find the threshold on
answers of yours that people have judged.
"""
import json
import sys

from ask_model import chat, user

THRESHOLD = 0.5
HAND_OVER = "A colleague will answer you shortly."


def answer(question, history=(), threshold=THRESHOLD):
    """{"text", "confidence", "handed_over"}; a cut or empty answer is handed over, too."""
    choice = chat([*history, user(question)], temperature=0, confidence=True, reasoning_effort="auto",
                  max_tokens=400)
    confidence = choice.get("confidence", {"lowest": 0, "mean": 0})
    is_sure = choice["finish_reason"] == "stop" and confidence["lowest"] >= threshold
    return {"text": choice["message"]["content"] if is_sure else HAND_OVER,
            "confidence": confidence, "handed_over": not is_sure}


if __name__ == "__main__":
    print(json.dumps(answer(" ".join(sys.argv[1:]))))
