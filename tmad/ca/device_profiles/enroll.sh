#!/bin/sh
# Gets this machine a certificate over EST (RFC 7030), joins the network with it, keeps it new.
#
#   sh FILE [enroll] [--no-service]   the first time; as root, unless the directory is yours
#   sh FILE renew [--force]           what the timer runs: does nothing until it is time
#
# @settings@

connections=${TMAD_CONNECTIONS:-/etc/NetworkManager/system-connections}
units=${TMAD_UNITS:-/etc/systemd/system}
versions=$directory.d
staged=$versions/staged

set -eu
umask 077

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$label: $*"
    exit 1
}

# The key and the request stay until the answer is here: the same request gets the same answer.
make_request() {
    mkdir -p "$staged"
    if [ ! -s "$staged/request" ]; then
        # shellcheck disable=SC2086  # the algorithm and its parameters are several words
        openssl genpkey -algorithm $key_algorithm -out "$staged/key.pem"
        set -- -new -utf8 -sha256 -key "$staged/key.pem" -subj "$subject" -outform DER
        if [ -n "$names" ]; then
            set -- "$@" -addext "subjectAltName=$names"
        fi
        openssl req "$@" -out "$staged/request.der"
        openssl base64 -e -in "$staged/request.der" -out "$staged/request.part"
        mv "$staged/request.part" "$staged/request"
    fi
    printf '%s' "$server_anchors" >"$staged/server-anchors.pem"
}

# send OPERATION URL CURL-OPTIONS…: what else curl shall know comes on standard input.
send() {
    operation=$1 url=$2
    shift 2
    status=$(curl --config - --silent --show-error --max-time 120 \
        --cacert "$staged/server-anchors.pem" \
        --header 'Content-Type: application/pkcs10' \
        --header 'Content-Transfer-Encoding: base64' \
        --data-binary "@$staged/request" \
        --output "$staged/answer" --write-out '%{http_code}' "$@" "$url/$operation") ||
        fail "$url cannot be reached"
    case $status in
        200) ;;
        202) fail "somebody has to approve the request; run this again later" ;;
        *) fail "refused with status $status: $(head -c 500 "$staged/answer")" ;;
    esac
}

# What came must fit the key, and be signed by the authority that this file names.
install_answer() {
    tr -d '\r\n' <"$staged/answer" | openssl base64 -d -A |
        openssl pkcs7 -inform DER -print_certs |
        sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' >"$staged/certificate.pem"
    printf '%s' "$issuers" >"$staged/issuers.pem"
    printf '%s' "$network_anchors" >"$staged/wifi-anchors.pem"
    openssl verify -partial_chain -trusted "$staged/issuers.pem" "$staged/certificate.pem" \
        >/dev/null || fail "the certificate is not from the authority of $label"
    [ "$(openssl x509 -in "$staged/certificate.pem" -noout -pubkey)" = \
        "$(openssl pkey -in "$staged/key.pem" -pubout)" ] ||
        fail "the certificate is for another key"
    # A version of this very second is there already where somebody renews at once.
    while version=$versions/$(date -u +%Y%m%dT%H%M%SZ) && [ -e "$version" ]; do
        sleep 1
    done
    mv -T "$staged" "$version"
    activate "$version"
    say "$label: $(openssl x509 -in "$directory/certificate.pem" -noout -enddate)"
}

# Certificate and key change together, or not at all.
activate() {
    rm -f "$1/request" "$1/request.der" "$1/answer"
    ln -sfn "$1" "$directory.next"
    mv -T "$directory.next" "$directory"
    for old in "$versions"/2*; do
        [ "$old" = "$1" ] || rm -rf "$old"
    done
}

# Ends what an earlier run could not.
recover() {
    newest=
    for each in "$versions"/2*; do
        if [ -s "$each/certificate.pem" ]; then
            newest=$each
        fi
    done
    if [ -n "$newest" ] && [ "$(readlink "$directory" || :)" != "$newest" ]; then
        activate "$newest"
    fi
}

install_network() {
    if [ -z "$connection" ] || [ ! -d "$connections" ]; then
        return 0
    fi
    printf '%s' "$connection" >"$connections/tmad-$label.nmconnection"
    nmcli connection load "$connections/tmad-$label.nmconnection" >/dev/null 2>&1 ||
        say "$label: NetworkManager does not run; it reads the connection when it starts"
}

# The copy that renews knows no secret.
install_service() {
    if [ ! -d "$units" ]; then
        say "$label: no systemd; call '$0 renew' once a day"
        return 0
    fi
    sed "s/^secret=.*/secret=''/" "$0" >"$versions.sh"
    cat >"$units/tmad-$label.service" <<UNIT
[Unit]
Description=$title: renew the certificate
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh $versions.sh renew
UNIT
    cat >"$units/tmad-$label.timer" <<UNIT
[Unit]
Description=$title: renew the certificate in time

[Timer]
OnCalendar=daily
RandomizedDelaySec=6h
Persistent=true

[Install]
WantedBy=timers.target
UNIT
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl enable --now "tmad-$label.timer"
    fi
}

enroll() {
    [ ! -e "$directory/certificate.pem" ] || fail "there is a certificate in $directory already"
    [ -n "$secret" ] || fail "this file holds no secret: it renews, and does not enrol"
    make_request
    printf 'user = "%s:%s"\n' "$user" "$secret" | send simpleenroll "$url"
    install_answer
    install_network
    [ "$1" = --no-service ] || install_service
}

renew() {
    [ -e "$directory/certificate.pem" ] || fail "there is no certificate in $directory to renew"
    if [ "$1" != --force ] && openssl x509 -in "$directory/certificate.pem" -noout \
        -checkend $((renew_days * 86400)) >/dev/null; then
        return 0
    fi
    make_request
    send simplereenroll "$renewal_url" --cert "$directory/certificate.pem" \
        --key "$directory/key.pem" </dev/null
    install_answer
    if command -v nmcli >/dev/null 2>&1; then
        nmcli connection reload >/dev/null 2>&1 || :
    fi
}

for program in openssl curl; do
    command -v "$program" >/dev/null || fail "$program is needed, and not installed"
done
mkdir -p "$versions"
recover
case ${1:-enroll} in
    enroll) enroll "${2:-}" ;;
    --no-service) enroll --no-service ;;
    renew) renew "${2:-}" ;;
    *) fail "what is $1? enroll or renew" ;;
esac
