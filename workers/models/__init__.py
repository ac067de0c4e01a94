"""The tables: one module an area, all names here.

Enumerated columns are text with a check; their values stand at the head of each module as a
`Literal`, which types the attribute and makes the check.
"""

from workers.models.activities import Activity, ActivityStatus, ActivityTimeSlot, ServiceTimeSlot
from workers.models.base import Base
from workers.models.customer_service import (
    CustomerServiceAgent,
    CustomerServiceChat,
    CustomerServiceMessage,
    CustomerServiceQueueEntry,
    QueueStatus,
    SenderType,
)
from workers.models.people import (
    FeaturedTaskExpert,
    Language,
    Message,
    MessageRead,
    Notification,
    User,
)
from workers.models.rewards import (
    Coupon,
    CouponStatus,
    InvitationCode,
    PointsAccount,
    PointsTransaction,
    PointsTransactionType,
    UserCoupon,
    UserCouponStatus,
)
from workers.models.service import (
    DURATION_BOUNDS_SECONDS,
    BrokerName,
    JobRun,
    JobTotal,
    OutboxEvent,
    OutboxMessage,
    ProcessKind,
    RunEvent,
    RunStatus,
    ServiceProcess,
)
from workers.models.statistics import StatisticsChange, StatisticsFullPass
from workers.models.tasks import (
    ApplicationStatus,
    AuditedEntity,
    AuditLogEntry,
    Review,
    Task,
    TaskApplication,
    TaskHistory,
    TaskStatus,
)

__all__ = [
    "DURATION_BOUNDS_SECONDS",
    "Activity",
    "ActivityStatus",
    "ActivityTimeSlot",
    "ApplicationStatus",
    "AuditLogEntry",
    "AuditedEntity",
    "Base",
    "BrokerName",
    "Coupon",
    "CouponStatus",
    "CustomerServiceAgent",
    "CustomerServiceChat",
    "CustomerServiceMessage",
    "CustomerServiceQueueEntry",
    "FeaturedTaskExpert",
    "InvitationCode",
    "JobRun",
    "JobTotal",
    "Language",
    "Message",
    "MessageRead",
    "Notification",
    "OutboxEvent",
    "OutboxMessage",
    "PointsAccount",
    "PointsTransaction",
    "PointsTransactionType",
    "ProcessKind",
    "QueueStatus",
    "Review",
    "RunEvent",
    "RunStatus",
    "SenderType",
    "ServiceProcess",
    "ServiceTimeSlot",
    "StatisticsChange",
    "StatisticsFullPass",
    "Task",
    "TaskApplication",
    "TaskHistory",
    "TaskStatus",
    "User",
    "UserCoupon",
    "UserCouponStatus",
]
