"""EAP (RFC 3748) and its methods: TLS (5216, 9190), TTLS (5281, 9427), PEAP, GTC, MSCHAPv2."""
