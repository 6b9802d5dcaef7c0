"""The doorbell: a Celery task message without arguments, in the bytes kombu itself would write.

The Lua scripts ring it inside the transition that made work ready, so there is no gap between accepting a job and
waking a worker. A contract test holds WIRE against what kombu 5.7 publishes. The task's name is frozen: a worker
of any version knows it.
"""

from __future__ import annotations

import base64
import json

__all__ = ["TASK_NAME", "WIRE"]

TASK_NAME = "dreamqueue.pull"

_BODY = base64.b64encode(
    json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()
).decode()

# @ID@ and @QUEUE@ are filled in by scripts/lib/moves.lua.
WIRE = json.dumps(
    {
        "body": _BODY,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": "@ID@",
            "root_id": "@ID@",
            "parent_id": None,
            "shadow": None,
            "group": None,
            "group_index": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "dreamqueue",
            "ignore_result": True,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "@ID@",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "@QUEUE@"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "@ID@",
        },
    },
    separators=(",", ":"),
)
