"""Shows that whoever asks for a name controls it: ACME's challenges, seen from the server.

RFC 8555, 8; RFC 8737 (tls-alpn-01); RFC 8738 (IP addresses); RFC 8659 and 8657 (CAA);
draft-ietf-acme-dns-account-label and draft-ietf-acme-device-attest.
"""
