"""A mail server (aiosmtpd) for tests, which reads what it gets with Python's own mail parser.

Prints one JSON object a line: first {"port": ...}, then one for each mail. Ends when standard input does.
"""

import argparse
import asyncio
import email
import email.policy
import json
import logging
import ssl
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult


# What aiosmtpd thinks of logins over a connection whose TLS it does not see.
warnings.simplefilter("ignore")
logging.getLogger("mail.log").setLevel(logging.CRITICAL)


def say(value):
    # Headers beyond ASCII come from the parser as escaped bytes.
    sys.stdout.buffer.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def read(content):
    """The mail as a reader sees it."""
    mail = email.message_from_bytes(content, policy=email.policy.default)
    parts = []
    for part in mail.walk():
        if part.is_multipart():
            continue
        data = part.get_payload(decode=True)
        parts.append(
            {
                "type": part.get_content_type(),
                "charset": part.get_content_charset(),
                "name": part.get_filename(),
                "text": data.decode(part.get_content_charset() or "utf-8", "replace") if part.get_content_maintype() == "text" else None,
                "bytes": len(data),
            }
        )
    return {
        "headers": [[name, str(value)] for name, value in mail.items()],
        "to": [address.addr_spec for header in mail.get_all("to", []) for address in header.addresses],
        "reply_to": [address.addr_spec for header in mail.get_all("reply-to", []) for address in header.addresses],
        "type": mail.get_content_type(),
        "parts": parts,
        "defects": [type(defect).__name__ for part in mail.walk() for defect in part.defects]
        + [type(defect).__name__ for value in mail.values() for defect in getattr(value, "defects", ())],
        "bare_line_ends": content.replace(b"\r\n", b"").count(b"\n") + content.replace(b"\r\n", b"").count(b"\r"),
    }


class Handler:
    def __init__(self, refuse):
        self.refuse = refuse

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refuse:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        say(
            {
                "from": envelope.mail_from,
                "envelope": envelope.rcpt_tos,
                "utf8": envelope.smtp_utf8,
                "tls": session.ssl is not None,
                "login": bool(session.authenticated),
                "mail": read(envelope.original_content),
            }
        )
        return "250 2.0.0 queued"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--implicit", action="store_true")
    parser.add_argument("--login", help="user:password")
    parser.add_argument("--size", type=int, default=33554432)
    parser.add_argument("--utf8", action="store_true")
    parser.add_argument("--refuse", action="append", default=[])
    args = parser.parse_args()

    context = None
    if args.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.cert, args.key)

    def check(server, session, envelope, mechanism, data):
        user, password = args.login.split(":")
        good = (data.login, data.password) == (user.encode(), password.encode())
        # "Not handled" makes aiosmtpd answer 535 by itself.
        return AuthResult(success=good, handled=False)

    options = {"data_size_limit": args.size, "enable_SMTPUTF8": args.utf8, "decode_data": False}
    if args.login:
        options.update(authenticator=check, auth_required=True, auth_require_tls=not args.implicit)
    if context and not args.implicit:
        options.update(tls_context=context, require_starttls=True)

    asyncio.run(serve(lambda: SMTP(Handler(args.refuse), hostname="receiver.test", **options), context if args.implicit else None))


async def serve(factory, context):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
    say({"port": server.sockets[0].getsockname()[1]})
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


main()
