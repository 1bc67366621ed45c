"""Names the daemon and its protocols for Twisted's plugin system; imports nothing heavy."""

from twisted.application.service import ServiceMaker

from tmad.plugin import ProtocolPlugin

tmad = ServiceMaker(  # type: ignore[no-untyped-call]  # Twisted does not type it
    "tmad", "tmad.daemon", "The Trust Management Appliance daemon.", "tmad"
)

scep = ProtocolPlugin("scep", "tmad.protocols.scep.plugin")
est = ProtocolPlugin("est", "tmad.protocols.est.plugin")
ocsp = ProtocolPlugin("ocsp", "tmad.protocols.ocsp.plugin")
crl = ProtocolPlugin("crl", "tmad.protocols.crl.plugin")
radius = ProtocolPlugin("radius", "tmad.protocols.radius.plugin")
snmp = ProtocolPlugin("snmp", "tmad.protocols.snmp.plugin")
syslog = ProtocolPlugin("syslog", "tmad.protocols.syslog.plugin")
cmp = ProtocolPlugin("cmp", "tmad.protocols.cmp.plugin")
cmc = ProtocolPlugin("cmc", "tmad.protocols.cmc.plugin")
ldap = ProtocolPlugin("ldap", "tmad.protocols.ldap.plugin")
acme = ProtocolPlugin("acme", "tmad.protocols.acme.plugin")
tsa = ProtocolPlugin("tsa", "tmad.protocols.tsa.plugin")
wstep = ProtocolPlugin("wstep", "tmad.protocols.wstep.plugin")
agent = ProtocolPlugin("agent", "tmad.protocols.agent.plugin")
enroll = ProtocolPlugin("enroll", "tmad.protocols.enroll.plugin")
