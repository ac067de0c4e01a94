"""Names and sentences for sample data, in both languages; nobody real is meant."""

from typing import Final

from workers.models import Language

LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES: Final[dict[Language, tuple[str, ...]]] = {
    "en": _words(
        "Ada Alex Amira Anna Ben Carla Chloe Daniel David Elena Emma Eva Felix Grace Hannah Hugo "
        "Ines Ivan Jack Jonas Julia Kai Laura Leo Lina Lucas Maria Maya Mila Nina Noah Nora Oliver "
        "Omar Paula Ravi Rosa Ruth Sam Sara Simon Sofia Theo Tom Vera Victor Yara Zoe"
    ),
    "zh": _words(
        "安琪 博文 晨曦 丹丹 海燕 浩然 慧敏 佳怡 建国 静雯 俊杰 可欣 乐天 丽娜 明远 宁宁 佩珊 "
        "启航 若彤 思远 婷婷 文博 晓峰 欣怡 雅琴 一鸣 雨桐 宇轩 泽宇 志强 子涵 梓萱"
    ),
}

INITIALS: Final[dict[Language, str]] = {"en": "ABCDEFGHJKLMNOPRSTVWZ", "zh": "CDFGHJLMQSTWXYZ"}

QUESTIONS: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "Hello, is anybody there?",
        "My coupon is refused at checkout. What can I do?",
        "The taker of my task does not answer any more.",
        "Can I move the deadline of a task that is taken already?",
        "I cannot find the points of last week.",
        "How do I cancel an application?",
        "Thank you, that is clear now.",
        "Could you have another look, please?",
        "It still shows the old status.",
    ),
    "zh": (
        "你好,有人在吗?",
        "我的优惠券在结账时无法使用,怎么办?",
        "接任务的人一直没有回复我。",
        "任务已经被接了,还可以修改截止时间吗?",
        "我找不到上周的积分。",
        "怎么取消申请?",
        "谢谢,明白了。",
        "能再帮我看一下吗?",
        "页面上还是旧的状态。",
    ),
}

ANSWERS: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "Hello! Let me have a look.",
        "Could you tell me the number of the task, please?",
        "I have passed this on to my colleagues.",
        "Please reload the page and try again.",
        "Your coupon is valid until the end of the week.",
        "Is there anything else I can do for you?",
    ),
    "zh": (
        "您好!我来看一下。",
        "请告诉我任务编号。",
        "我已经转给同事处理。",
        "请刷新页面后再试一次。",
        "您的优惠券本周末之前有效。",
        "还有什么可以帮您的吗?",
    ),
}

LETTERS: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "Hi, is the task still free?",
        "I could come on Saturday morning.",
        "How many hours do you think it takes?",
        "That price is fine with me.",
        "I have sent you the photos.",
        "See you tomorrow at ten.",
    ),
    "zh": (
        "你好,这个任务还可以接吗?",
        "我周六上午可以过来。",
        "大概需要几个小时?",
        "这个价格可以。",
        "照片已经发给你了。",
        "明天十点见。",
    ),
}

TASK_TITLES: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "Assemble a bookshelf",
        "Walk two dogs in the evening",
        "Translate a menu",
        "Repair a bicycle",
        "Water the plants for a week",
        "Carry a sofa to the third floor",
        "Design a flyer for a concert",
        "Proofread a cover letter",
        "Set up a home network",
        "Pick up a parcel",
        "Clean a kitchen",
        "Photograph a small shop",
    ),
    "zh": (
        "组装书架",
        "傍晚遛两只狗",
        "翻译菜单",
        "修理自行车",
        "帮忙浇一周的花",
        "把沙发搬上三楼",
        "设计音乐会传单",
        "校对求职信",
        "设置家庭网络",
        "代取快递",
        "打扫厨房",
        "为小店拍照",
    ),
}

ACTIVITY_TITLES: Final[tuple[str, ...]] = (
    "Bicycle repair in the park",
    "Portrait photography",
    "Piano for beginners",
    "周末书法课",
    "Garden advice",
    "家常菜烹饪班",
    "Spanish conversation",
    "Moving day help",
    "瑜伽入门",
    "Furniture workshop",
    "简历修改",
    "Home network check",
)
