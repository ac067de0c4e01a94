"""All that the service says to people, in their languages. ``{names}`` are filled in."""

from typing import Literal, NamedTuple

Language = Literal["en", "zh"]


class Text(NamedTuple):
    """A notification."""

    title: str
    content: str


class Quantity(NamedTuple):
    """What is said of one, and of several."""

    one: str
    many: str


NOTIFICATIONS: dict[str, dict[str, Text]] = {
    "customer_service_assigned": {
        "en": Text("Customer service is here", "An agent has joined your chat. How can we help?"),
        "zh": Text("客服已接入", "客服人员已加入您的对话，请问有什么可以帮您？"),
    },
    "customer_service_timeout_warning": {
        "en": Text(
            "Your chat is about to end",
            "Your customer service chat ends in {seconds} s unless somebody writes.",
        ),
        "zh": Text("对话即将结束", "如无新消息，您的客服对话将在{seconds}秒后结束。"),
    },
    "customer_service_chat_ended": {
        "en": Text(
            "Your chat has ended",
            "Your customer service chat has ended because nobody wrote for a while. "
            "You can start a new one at any time.",
        ),
        "zh": Text(
            "对话已结束", "由于长时间没有新消息，您的客服对话已结束。您可以随时发起新的对话。"
        ),
    },
    "task_cancelled": {
        "en": Text("A task was cancelled", "“{title}” was cancelled because its time ran out."),
        "zh": Text("任务已取消", "任务“{title}”已过期，系统已自动取消。"),
    },
}
"""By the notification's type, then by language."""

CHAT_MESSAGES: dict[str, dict[str, str]] = {
    "timeout_warning": {
        "en": "This chat ends in {seconds} s unless somebody writes.",
        "zh": "如无新消息，本次对话将在{seconds}秒后结束。",
    },
    "timeout": {
        "en": "This chat has ended because nobody wrote for a while.",
        "zh": "由于长时间没有新消息，本次对话已结束。",
    },
}
"""System messages in a chat, by occasion, then by the language of the chat's user."""

RESPONSE_TIMES: dict[str, dict[str, Quantity]] = {
    "minutes": {
        "en": Quantity("Within 1 minute", "Within {count} minutes"),
        "zh": Quantity("1分钟内", "{count}分钟内"),
    },
    "hours": {
        "en": Quantity("Within 1 hour", "Within {count} hours"),
        "zh": Quantity("1小时内", "{count}小时内"),
    },
    "days": {
        "en": Quantity("Within 1 day", "Within {count} days"),
        "zh": Quantity("1天内", "{count}天内"),
    },
}
"""How soon an expert answers, by the unit that is counted, then by language."""
