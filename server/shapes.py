"""What answers look like, for the OpenAPI document; the tests hold every answer to it.

Nothing is encoded through these: most JSON is made by Postgres (db/migrations, the functions *_json).
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Id = Annotated[int, Meta(ge=1, description="an id")]
Seq = Annotated[int, Meta(ge=0, description="a position in a thread; 0: before the first message")]
Rev = Annotated[int, Meta(ge=0, description="a place in the changes of a thread")]
Time = Annotated[datetime, Meta(tz=True)]
Cursor = Annotated[str, Meta(description="opaque; leads on from here")]
MemberRole = Literal["admin", "moderator", "member"]


class Shape(Struct, forbid_unknown_fields=True, kw_only=True):
    """A JSON object."""


class Error(Shape):
    error: Annotated[str, Meta(description="a sentence for people")]
    code: Annotated[str, Meta(description="a word for programs")]
    requestId: str
    details: Annotated[dict[str, Any], Meta(description="by field")] | UnsetType = UNSET


# ---- people ------------------------------------------------------------------------------------


class Settings(Shape):
    readReceipts: bool


class User(Shape):
    """An account as its owner sees it."""

    id: Id
    email: str | None
    username: str | None
    name: str
    role: Literal["admin", "agent", "member"]
    settings: Settings


class UserAnswer(Shape):
    user: User


class Found(Shape):
    """Somebody, as others find them."""

    id: Id
    username: str | None
    name: str
    kind: Literal["user", "bot"]


class UserList(Shape):
    users: list[Found]


class Block(Shape):
    userId: Id
    name: str
    username: str | None
    at: Time


class BlockAnswer(Shape):
    block: Block


class BlockPage(Shape):
    blocks: list[Block]
    nextCursor: Cursor | None


class SignedIn(Shape):
    user: User
    accessToken: str
    refreshToken: str
    expiresIn: Annotated[int, Meta(description="seconds of the access token")]


class Session(Shape):
    """A sign-in of one device."""

    id: Id
    current: Annotated[bool, Meta(description="the one that asks")]
    createdAt: Time
    lastUsedAt: Time
    expiresAt: Time
    address: str | None
    userAgent: str | None


class SessionList(Shape):
    sessions: list[Session]


class Ticket(Shape):
    token: str
    expiresIn: int


class Author(Shape):
    id: Id
    name: str
    kind: Literal["user", "contact", "bot"]


# ---- administration ----------------------------------------------------------------------------


class ManagedUser(Shape):
    """An account as admins see it."""

    id: Id
    email: str | None
    username: str | None
    name: str
    kind: Literal["user", "bot"]
    role: Literal["admin", "agent", "member"]
    active: bool
    createdAt: Time
    lastSeenAt: Time | None


class ManagedUserAnswer(Shape):
    user: ManagedUser


class ManagedUserPage(Shape):
    users: list[ManagedUser]
    nextCursor: Cursor | None


class ApiKey(Shape):
    id: Id
    kind: Literal["bot", "host"]
    name: str
    userId: Annotated[int, Meta(ge=1, description="the bot whose key it is")]
    createdAt: Time
    lastUsedAt: Annotated[Time | None, Meta(description="to the hour; null: never")]
    createdBy: Id


class NewKeyAnswer(Shape):
    key: ApiKey
    secret: Annotated[str, Meta(description="told this once")]


class KeyPage(Shape):
    keys: list[ApiKey]
    nextCursor: Cursor | None


class GuestUser(Shape):
    id: Id
    name: str
    username: str | None


class GuestAnswer(Shape):
    user: GuestUser
    accessToken: str
    expiresIn: Annotated[int, Meta(description="seconds of the access token")]


class AuditEntry(Shape):
    """What somebody did that bears on security."""

    id: Id
    at: Time
    act: str
    actorId: Annotated[int | None, Meta(description="null: nobody signed in, or the command line")]
    subjectId: Annotated[int | None, Meta(description="to whom, or whose it is")]
    threadId: int | None
    address: str | None
    requestId: str | None
    details: dict[str, Any]


class AuditPage(Shape):
    entries: list[AuditEntry]
    nextCursor: Cursor | None


# ---- threads -----------------------------------------------------------------------------------


class LastMessage(Shape):
    seq: Seq
    author: Author
    text: Annotated[str, Meta(description="the first 200 characters")]
    deletedAt: Time | UnsetType = UNSET


class FirstMember(Shape):
    userId: Id
    name: str
    username: str | None
    role: MemberRole


class ContactPlace(Shape):
    """The contact of a contact thread, and its place in the inbox."""

    id: Id
    phoneNumber: str | None
    status: Literal["open", "snoozed", "closed"]
    snoozedUntil: Time | None
    assigneeId: Id | None
    labels: list[str]


class Thread(Shape):
    """A thread as the caller sees it."""

    id: Id
    kind: Literal["direct", "group", "channel", "contact"]
    history: Literal["all", "joined"]
    title: str | None
    createdAt: Time
    lastSeq: Seq
    lastRev: Rev
    streamCursor: Cursor
    lastMessageAt: Time | None
    lastMessage: LastMessage | None
    messageCount: Annotated[int, Meta(ge=0, description="without the deleted ones")]
    memberCount: Annotated[int, Meta(ge=0)]
    unreadCount: Annotated[int, Meta(ge=0)]
    mentionCount: Annotated[int, Meta(ge=0, description="unread ones that mention me; at most 1,000")]
    firstUnreadSeq: Annotated[Seq | None, Meta(description="null: nothing is unread")]
    lastReadSeq: Seq
    role: Annotated[MemberRole | None, Meta(description="null: a channel that one has not joined")]
    muted: Annotated[bool, Meta(description="one's own; of members only")] | UnsetType = UNSET
    archived: Annotated[bool, Meta(description="one's own; of members only")] | UnsetType = UNSET
    notify: (
        Annotated[Literal["all", "mentions", "none"], Meta(description="one's own; of members only")]
        | UnsetType
    ) = UNSET
    members: (
        Annotated[list[FirstMember], Meta(description="the first ten; of direct threads and groups")]
        | UnsetType
    ) = UNSET
    contact: Annotated[ContactPlace, Meta(description="of contact threads")] | UnsetType = UNSET
    archivedBefore: (
        Annotated[Seq, Meta(description="messages before this one are no longer here")] | UnsetType
    ) = UNSET


class ThreadAnswer(Shape):
    thread: Thread


class ThreadPage(Shape):
    threads: list[Thread]
    nextCursor: Cursor | None
    streamCursor: Annotated[str, Meta(description="of the user stream; of several pages the first one's")]


class ChannelPage(Shape):
    channels: list[Thread]
    nextCursor: Cursor | None


class Invite(Shape):
    id: Id
    createdAt: Time
    createdBy: Id
    expiresAt: Time
    maxUses: Annotated[int | None, Meta(description="null: no bound")]
    uses: int


class NewInvite(Invite):
    """With what is told this once."""

    token: str
    url: str


class NewInviteAnswer(Shape):
    invite: NewInvite


class InviteList(Shape):
    invites: list[Invite]


class Member(Shape):
    userId: Id
    name: str
    username: str | None
    kind: Literal["user", "bot"]
    role: MemberRole
    joinedAt: Time


class MemberPage(Shape):
    members: list[Member]
    nextCursor: Cursor | None


class MemberAnswer(Shape):
    userId: Id
    role: MemberRole


class Joined(Shape):
    threadId: Id
    role: MemberRole


class ThreadPresence(Shape):
    online: Annotated[list[Id], Meta(description="members who are there, at most 1,000")]
    typing: Annotated[list[Id], Meta(description="at most 1,000")]


# ---- messages ----------------------------------------------------------------------------------


class Quote(Shape):
    """The message that is answered; its seq alone where the reader may not see it, or it is deleted."""

    seq: Seq
    author: Author | UnsetType = UNSET
    text: str | UnsetType = UNSET


class Reaction(Shape):
    emoji: str
    count: Annotated[int, Meta(ge=1)]
    mine: Annotated[bool, Meta(description="not in events, and not in the answer to a send")] | UnsetType = (
        UNSET
    )


class Message(Shape):
    threadId: Id
    seq: Seq
    rev: Rev
    author: Author
    text: str
    createdAt: Time
    files: list[dict[str, Any]]
    reactions: list[Reaction]
    clientId: str | UnsetType = UNSET
    form: Literal["action", "notice"] | UnsetType = UNSET
    editedAt: Time | UnsetType = UNSET
    deletedAt: Time | UnsetType = UNSET
    pinnedAt: Time | UnsetType = UNSET
    mentions: Annotated[list[Id], Meta(description="whom it mentions, by @handle")] | UnsetType = UNSET
    replyTo: Quote | UnsetType = UNSET
    status: (
        Annotated[Literal["sent", "delivered", "read"], Meta(description="of one's own messages")] | UnsetType
    ) = UNSET


class MessageAnswer(Shape):
    message: Message


class MessagePage(Shape):
    items: list[Message]
    nextCursor: Cursor | None
    prevCursor: Cursor | None
    streamCursor: Cursor
    archivedBefore: (
        Annotated[Seq, Meta(description="messages before this one are no longer here")] | UnsetType
    ) = UNSET


class Edit(Shape):
    """What a message has said before."""

    text: str
    at: Annotated[Time, Meta(description="when that was written")]


class EditPage(Shape):
    edits: list[Edit]
    nextCursor: Cursor | None


class PinPage(Shape):
    items: list[Message]
    nextCursor: Cursor | None


class ReadState(Shape):
    """How far I have come in a thread."""

    threadId: Id
    deliveredSeq: Seq
    unreadCount: Annotated[int, Meta(ge=0)]
    mentionCount: Annotated[int, Meta(ge=0, description="unread ones that mention me; at most 1,000")]
    firstUnreadSeq: Annotated[Seq | None, Meta(description="null: nothing is unread")]
    lastReadSeq: Seq


class Reached(Shape):
    userId: Id
    at: Annotated[Time, Meta(description="to the second")]


class ReceiptPage(Shape):
    delivered: list[Reached]
    read: list[Reached]
    nextCursor: Cursor | None


# ---- search ------------------------------------------------------------------------------------


class FoundThread(Shape):
    id: Id
    kind: Literal["direct", "group", "channel", "contact"]
    title: Annotated[str | None, Meta(description="null: a direct thread")]


class SearchResult(Shape):
    message: Message
    thread: FoundThread
    snippet: Annotated[str, Meta(description="HTML: the text around the first hit, what was found in <mark>")]


class SearchPage(Shape):
    results: list[SearchResult]
    nextCursor: Annotated[Cursor | None, Meta(description="there may be more, even if this page has none")]


# ---- the server --------------------------------------------------------------------------------


class Alive(Shape):
    status: Literal["ok"]


class Ready(Shape):
    status: Literal["ok", "degraded", "unavailable"]
    app: Literal["ok", "starting", "draining"]
    database: Literal["ok", "away", "unknown"]
    redis: Literal["ok", "away", "unknown"]
    replica: (
        Annotated[
            Literal["ok", "behind", "away", "refused"],
            Meta(description="with DATABASE_READ_URL; read from when ok"),
        ]
        | UnsetType
    ) = UNSET


# ---- contacts ----------------------------------------------------------------------------------


class Contact(Shape):
    """Somebody outside who writes to the team."""

    id: Id
    threadId: Id
    name: str
    phoneNumber: Annotated[str | None, Meta(description="E.164")]
    email: str | None
    externalId: str | None
    notes: str
    createdAt: Time
    updatedAt: Time


class ContactAnswer(Shape):
    contact: Contact


class Pagination(Shape):
    page: Annotated[int, Meta(ge=1)]
    pageSize: Annotated[int, Meta(ge=1)]
    total: Annotated[int, Meta(ge=0)]
    totalPages: Annotated[int, Meta(ge=0)]
    totalExact: Annotated[bool, Meta(description="false: there are more")]


class ContactPage(Shape):
    contacts: list[Contact]
    pagination: Pagination


class Assignee(Shape):
    id: Id
    name: str


class Conversation(Shape):
    """A contact thread in the inbox, as one of the staff sees it."""

    id: Annotated[int, Meta(ge=1, description="of the thread")]
    contactId: Id
    name: str
    phoneNumber: Annotated[str | None, Meta(description="E.164")]
    content: Annotated[
        str, Meta(description="of the last message, the first 200 characters; empty if deleted")
    ]
    createdAt: Annotated[Time, Meta(description="of the last message")]
    unreadCount: Annotated[int, Meta(ge=0)]
    lastSeq: Seq
    author: Annotated[Author | None, Meta(description="of the last message; null: nobody knows any more")]
    status: Literal["open", "snoozed", "closed"]
    snoozedUntil: Time | None
    assignee: Assignee | None
    labels: list[str]


class ConversationAnswer(Shape):
    conversation: Conversation


class ConversationPage(Shape):
    conversations: list[Conversation]
    pagination: Pagination


class ContactMessagePage(Shape):
    messages: list[Message]
    pagination: Pagination


class InboundContact(Shape):
    """What a gateway is told of a contact."""

    id: Id
    threadId: Id
    name: str
    phoneNumber: Annotated[str | None, Meta(description="E.164")]


class InboundAnswer(Shape):
    message: Message
    contact: InboundContact
    created: Annotated[bool, Meta(description="the contact is new")]


class ImportFault(Shape):
    line: Annotated[int, Meta(ge=1, description="of the file, where the entry begins")]
    column: Annotated[str | None, Meta(description="null: it is about the whole line")]
    error: Annotated[str, Meta(description="the end of a sentence that begins with the column, or the line")]


class ImportReport(Shape):
    created: Annotated[int, Meta(ge=0)]
    updated: Annotated[int, Meta(ge=0)]
    unchanged: Annotated[int, Meta(ge=0)]
    errors: Annotated[list[ImportFault], Meta(description="the first 100")]
    errorCount: Annotated[int, Meta(ge=0, description="lines that were left out")]
    ignoredColumns: Annotated[list[str], Meta(description="of which nothing is known")]


# ---- what is no JSON, and what streams tell ----------------------------------------------------

HTML = "text/html; charset=utf-8"
CSV = "text/csv; charset=utf-8"
EVENT_STREAM = "text/event-stream; charset=utf-8"


class StreamReady(Shape):
    cursor: Cursor
    lastSeq: Seq


class StreamResync(Shape):
    """Something is missing that can't be told any more: fetch afresh, and go on from here."""

    cursor: Cursor


class MemberChange(Shape):
    threadId: Id
    rev: Rev
    act: Literal["joined", "left", "removed", "role"]
    userId: Id
    name: str
    username: str | None
    role: MemberRole | None


class ThreadChange(Shape):
    id: Id
    rev: Rev
    kind: Literal["direct", "group", "channel", "contact"]
    title: str | None
    contact: (
        Annotated[
            ContactPlace,
            Meta(
                description="with thread_updated, of contact threads; what the contact writes opens it, unsaid"
            ),
        ]
        | UnsetType
    ) = UNSET


class Receipt(Shape):
    """How far somebody has come. Both only rise: what is lower than one knows is old news."""

    threadId: Id
    userId: Id
    deliveredSeq: Seq
    readSeq: Annotated[Seq | None, Meta(description="null: they hide it")]
    at: Time


class PresenceChange(Shape):
    """Members who came, and who went. On joining: who of them is there, at most 1,000."""

    threadId: Id
    online: list[Id]
    offline: list[Id]


class TypingChange(Shape):
    threadId: Id
    userId: Id
    isTyping: bool


class UserStreamReady(Shape):
    cursor: Cursor


class ThreadNews(Thread):
    """A thread of mine about which something has changed, as it is now. Live there is one for each new message."""

    message: Annotated[Message, Meta(description="the new one, if it is that")] | UnsetType = UNSET


class ThreadGone(Shape):
    """A thread that is no longer mine."""

    id: Id
    role: None
    act: Literal["left", "removed", "deleted"]


class FriendsPresence(Shape):
    """Who came, and who went, of the people in my direct threads. At the beginning: who of them is there."""

    online: list[Id]
    offline: list[Id]


USER_EVENTS: dict[str, tuple[type[Shape], ...]] = {  # of the user stream
    "ready": (UserStreamReady,),
    "thread": (ThreadNews, ThreadGone),
    "presence": (FriendsPresence,),
    "resync": (StreamResync,),
}
EVENTS: dict[str, type[Shape]] = {  # of a thread stream, by the name of the event
    "ready": StreamReady,
    "message": Message,
    "message_updated": Message,
    "member": MemberChange,
    "thread_updated": ThreadChange,
    "thread_deleted": ThreadChange,
    "resync": StreamResync,
    "receipt": Receipt,
    "presence": PresenceChange,
    "typing": TypingChange,
}


# ---- what a WebSocket tells --------------------------------------------------------------------


class SocketJoined(Shape):
    threadId: Id
    cursor: Cursor
    lastSeq: Seq


class SocketLeft(Shape):
    """Nothing more comes of this thread: it was asked for, or one is no longer in it."""

    threadId: Id
    reason: Literal["asked", "left", "removed", "deleted"]


class SocketResync(StreamResync):
    threadId: Id


class SocketAck(Shape):
    """The answer to a frame with a ref."""

    message: Annotated[Message, Meta(description="of a send")] | UnsetType = UNSET


class SocketError(Shape):
    code: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET
    retryAfter: Annotated[int, Meta(ge=1, description="seconds")] | UnsetType = UNSET


class SocketPong(Shape):
    pass


SOCKET_EVENTS: dict[str, tuple[type[Shape], ...]] = {  # those of both streams, and some of its own
    **{name: (shape,) for name, shape in EVENTS.items()},
    **USER_EVENTS,
    "presence": (PresenceChange, *USER_EVENTS["presence"]),
    "resync": (SocketResync, *USER_EVENTS["resync"]),
    "joined": (SocketJoined,),
    "left": (SocketLeft,),
    "ack": (SocketAck, ReadState),  # the latter of read and delivered
    "error": (SocketError,),
    "pong": (SocketPong,),
}
