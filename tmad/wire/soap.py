"""SOAP 1.2 messages with WS-Addressing and WS-Security's user name: XML, values, and nothing else.

W3C SOAP 1.2 part 1; WS-Addressing 1.0 (SOAP binding, 3); OASIS WS-Security 1.1 and its user name
token profile 1.1. What may refer to something else is refused before it is looked at: document
types, entities and processing instructions (SOAP 1.2, 5), and depth and number of what is left
are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from xml.parsers import expat

from tmad.errors import Fault, FaultCode
from tmad.events import Secret

ENVELOPE: Final = "http://www.w3.org/2003/05/soap-envelope"
ADDRESSING: Final = "http://www.w3.org/2005/08/addressing"
_WSS: Final = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
SECURITY: Final = f"{_WSS}wssecurity-secext-1.0.xsd"
UTILITY: Final = f"{_WSS}wssecurity-utility-1.0.xsd"
SCHEMA_INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"
XML: Final = "http://www.w3.org/XML/1998/namespace"

_OLD_ENVELOPE: Final = "http://schemas.xmlsoap.org/soap/envelope/"
_ANONYMOUS: Final = f"{ADDRESSING}/anonymous"
_PASSWORD_TEXT: Final = f"{_WSS}username-token-profile-1.0#PasswordText"
FAULT_ACTION: Final = f"{ADDRESSING}/soap/fault"

_DEPTH: Final = 32
_NODES: Final = 1_500
_ATTRIBUTES: Final = 16
_ID: Final = 1_024  # characters of a message id
_TRUE: Final = frozenset({"1", "true"})
_SPACE: Final = " \t\r\n"


class Name(NamedTuple):
    """The name of an element or an attribute: namespace and local part."""

    namespace: str
    local: str


@dataclass(slots=True)
class Node:
    """One element; ``text`` is its own text, all of it."""

    name: Name
    attributes: Mapping[Name, str] = field(default_factory=dict)
    children: tuple[Node, ...] = ()
    text: str = field(default="", repr=False)  # a header's may be a password

    def find(self, namespace: str, local: str) -> Node | None:
        """Return the only child of a name, or None; Fault(MALFORMED) for several."""
        found = [child for child in self.children if child.name == (namespace, local)]
        if len(found) > 1:
            # Two readers could believe different ones.
            raise malformed(f"{local} occurs more than once")
        return found[0] if found else None

    def value(self, namespace: str, local: str) -> str:
        """Return the text of the only child of a name without spaces around it, or nothing."""
        found = self.find(namespace, local)
        return "" if found is None or found.is_nil else found.text.strip(_SPACE)

    def get(self, namespace: str, local: str) -> str:
        """Return an attribute, or nothing."""
        return self.attributes.get(Name(namespace, local), "")

    @property
    def is_nil(self) -> bool:
        """Tell whether the element says that it has no value."""
        return self.get(SCHEMA_INSTANCE, "nil") in _TRUE


@dataclass(frozen=True, slots=True)
class UserName:
    """A name and a password (user name token profile, 3.1)."""

    name: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request. ``body`` is its only element; the times are those of its Timestamp."""

    action: str
    message_id: str
    body: Node
    user: UserName | None = None
    created: datetime | None = None
    expires: datetime | None = None


def malformed(why: str) -> Fault:
    """Return the Fault for what is no such message."""
    return Fault(FaultCode.MALFORMED, f"not a message for this service: {why}", rule="soap.message")


# -- read -------------------------------------------------------------------------------------


def parse(data: bytes) -> Node:
    """Read one XML document; raise Fault(MALFORMED)."""
    tree = _Tree()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartDoctypeDeclHandler = _forbidden
    parser.EntityDeclHandler = _forbidden
    parser.ProcessingInstructionHandler = _forbidden
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise malformed(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError):
        # An encoding that Python does not know, or that has more than one octet a character.
        raise malformed("the character encoding is not supported; use UTF-8") from None
    assert tree.root is not None  # expat refuses a document without an element
    return tree.root


class _Tree:
    """Collects what expat reports."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[tuple[Name, dict[Name, str], list[Node], list[str]]] = []
        self._nodes = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._nodes += 1
        if len(self._open) >= _DEPTH or self._nodes > _NODES or len(attributes) > _ATTRIBUTES:
            raise malformed("it is too deep, or there is too much in it")
        named = {_name(key): value for key, value in attributes.items()}
        self._open.append((_name(name), named, [], []))

    def end(self, _: str) -> None:
        name, attributes, children, pieces = self._open.pop()
        node = Node(name, attributes, tuple(children), "".join(pieces))
        if self._open:
            self._open[-1][2].append(node)
        else:
            self.root = node

    def characters(self, text: str) -> None:
        self._open[-1][3].append(text)


def _name(text: str) -> Name:
    namespace, _, local = text.rpartition(" ")
    return Name(namespace, local)


def _forbidden(*_: Any) -> None:
    raise malformed("document types, entities and processing instructions are not allowed")


def decode(data: bytes) -> Message:
    """Read a request; Fault(MALFORMED), or Fault(UNSUPPORTED) for what must be understood."""
    envelope = parse(data)
    if envelope.name == (_OLD_ENVELOPE, "Envelope"):
        raise Fault(
            FaultCode.UNSUPPORTED, "SOAP 1.1 is not served; use SOAP 1.2", rule="soap.version"
        )
    if envelope.name != (ENVELOPE, "Envelope"):
        raise malformed("it has no SOAP envelope")
    header, body = envelope.find(ENVELOPE, "Header"), envelope.find(ENVELOPE, "Body")
    if header is None or body is None or len(body.children) != 1:
        raise malformed("an envelope has a header, and a body with one element")
    _check_understood(header)
    _check_reply_to(header)
    action = header.value(ADDRESSING, "Action")
    message_id = header.value(ADDRESSING, "MessageID")
    if not action or len(message_id) > _ID:
        raise malformed("the header has no action, or too long a message id")
    security = header.find(SECURITY, "Security")
    created = expires = user = None
    if security is not None:
        user = _user_name(security)
        if (stamp := security.find(UTILITY, "Timestamp")) is not None:
            created = instant(stamp.value(UTILITY, "Created"))
            expires = instant(stamp.value(UTILITY, "Expires"))
    return Message(
        action=action,
        message_id=message_id,
        body=body.children[0],
        user=user,
        created=created,
        expires=expires,
    )


def _check_understood(header: Node) -> None:
    """Refuse blocks that must be understood and are not (SOAP 1.2, 5.4.8)."""
    for block in header.children:
        known = block.name.namespace == ADDRESSING or block.name == (SECURITY, "Security")
        if not known and block.get(ENVELOPE, "mustUnderstand") in _TRUE:
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"the header block {block.name.local[:64]} is not understood",
                rule="soap.must-understand",
                values={"namespace": block.name.namespace[:200], "name": block.name.local[:64]},
            )


def _check_reply_to(header: Node) -> None:
    """Answers go back on the same connection, and nowhere else."""
    for local in ("ReplyTo", "FaultTo"):
        reply_to = header.find(ADDRESSING, local)
        address = "" if reply_to is None else reply_to.value(ADDRESSING, "Address")
        if address not in ("", _ANONYMOUS):
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"{local} must be the anonymous address",
                rule="soap.reply-to",
                values={"address": address[:200]},
            )


def _user_name(security: Node) -> UserName | None:
    token = security.find(SECURITY, "UsernameToken")
    if token is None:
        return None
    password = token.find(SECURITY, "Password")
    if password is None:
        raise malformed("the user name token has no password")
    if password.get("", "Type") not in ("", _PASSWORD_TEXT) and (
        password.get(SECURITY, "Type") != _PASSWORD_TEXT
    ):
        # A digest needs the password in clear on this side, which is not kept.
        raise Fault(
            FaultCode.UNSUPPORTED, "a password must come as PasswordText", rule="soap.password"
        )
    return UserName(token.value(SECURITY, "Username"), Secret(password.text))


def instant(text: str) -> datetime | None:
    """Read an xs:dateTime with its zone; nothing for no text, Fault(MALFORMED) for any other."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        # In the first and last hours of all time there is no other zone to go to.
        found.utctimetuple()
    except (ValueError, OverflowError):
        raise malformed("a time in it is not an xs:dateTime") from None
    if found.tzinfo is None:
        raise malformed("a time in it has no zone")
    return found


# -- write ------------------------------------------------------------------------------------


def element(
    namespace: str,
    local: str,
    *content: Node | str,
    attributes: Mapping[Name, str] | None = None,
) -> Node:
    """Return an element with children, or with text."""
    children = tuple([each for each in content if isinstance(each, Node)])
    text = "".join([each for each in content if isinstance(each, str)])
    return Node(Name(namespace, local), attributes or {}, children, text)


def nil(namespace: str, local: str) -> Node:
    """Return an element that says that it has no value."""
    return Node(Name(namespace, local), {Name(SCHEMA_INSTANCE, "nil"): "true"})


def encode(action: str, relates_to: str, body: Node) -> bytes:
    """Return an answer as octets."""
    must = {Name(ENVELOPE, "mustUnderstand"): "1"}
    header = [element(ADDRESSING, "Action", action, attributes=must)]
    if relates_to:
        header.append(element(ADDRESSING, "RelatesTo", relates_to))
    envelope = element(
        ENVELOPE,
        "Envelope",
        element(ENVELOPE, "Header", *header),
        element(ENVELOPE, "Body", body),
    )
    return write(envelope)


def encode_fault(
    relates_to: str, code: str, subcode: Name, reason: str, detail: Node | None = None
) -> bytes:
    """Return a fault (SOAP 1.2, 5.4); ``code`` is "Sender" or "Receiver"."""
    # A name as text: the prefix must be one that the writer declares on the element around it.
    value = element(ENVELOPE, "Value", f"c:{subcode.local}")
    value.attributes = {Name("xmlns", "c"): subcode.namespace}
    language = {Name(XML, "lang"): "en"}
    body = element(
        ENVELOPE,
        "Fault",
        element(
            ENVELOPE,
            "Code",
            element(ENVELOPE, "Value", f"s:{code}"),
            element(ENVELOPE, "Subcode", value),
        ),
        element(ENVELOPE, "Reason", element(ENVELOPE, "Text", reason, attributes=language)),
        *([] if detail is None else [element(ENVELOPE, "Detail", detail)]),
    )
    return encode(FAULT_ACTION, relates_to, body)


_PREFIXES: Final = {ENVELOPE: "s", ADDRESSING: "a", SCHEMA_INSTANCE: "i", XML: "xml"}
_DECLARED: Final = "".join(
    f' xmlns:{prefix}="{namespace}"' for namespace, prefix in _PREFIXES.items() if prefix != "xml"
)


def write(root: Node) -> bytes:
    """Return a document; its own namespaces have prefixes, any other is the default one."""
    return "".join(_pieces(root, "", _DECLARED)).encode()


def _pieces(node: Node, default: str, declared: str = "") -> Iterator[str]:
    namespace, local = node.name
    prefix = _PREFIXES.get(namespace)
    tag = local if prefix is None else f"{prefix}:{local}"
    yield f"<{tag}{declared}"
    if prefix is None and namespace != default:
        yield f' xmlns="{_escaped(namespace)}"'
        default = namespace
    for (space, name), value in node.attributes.items():
        qualified = f"{_PREFIXES.get(space, space)}:{name}" if space else name
        yield f' {qualified}="{_escaped(value)}"'
    if not node.children and not node.text:
        yield "/>"
        return
    yield ">"
    yield _escaped(node.text)
    for child in node.children:
        yield from _pieces(child, default)
    yield f"</{tag}>"


def _escaped(text: str) -> str:
    """Return text as it may stand in XML; what no XML can hold becomes a question mark."""
    kept = "".join([c if _may_stand(ord(c)) else "?" for c in text])
    kept = kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return kept.replace('"', "&quot;").replace("\r", "&#13;")


def _may_stand(code: int) -> bool:
    # XML 1.0, 2.2
    if code < 0x20:
        return code in (0x09, 0x0A, 0x0D)
    return not 0xD800 <= code <= 0xDFFF and code not in (0xFFFE, 0xFFFF)
