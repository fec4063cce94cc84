"""Reads [{secret, headers, body (base64)}] from standard input, says for each whether `standardwebhooks` accepts it."""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def judge(message):
    try:
        Webhook(message["secret"]).verify(base64.b64decode(message["body"]), message["headers"], json_parse=False)
    except WebhookVerificationError as error:
        return f"refused: {error}"
    return "accepted"


print(json.dumps([judge(message) for message in json.load(sys.stdin)]))
