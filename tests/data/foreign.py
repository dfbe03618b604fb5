"""Publishes one event as a producer without Roadcall's code would: nats-py and JSON.

usage: foreign.py URL SUBJECT MESSAGE_ID, the body on standard input; prints the sequence that the archive gave it.
"""

import asyncio
import sys

import nats


async def main(url, subject, message_id):
    connection = await nats.connect(url, allow_reconnect=False)
    headers = {"Nats-Msg-Id": message_id, "Content-Type": "application/json"}
    ack = await connection.jetstream().publish(subject, sys.stdin.buffer.read(), headers=headers)
    print(ack.seq)
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
