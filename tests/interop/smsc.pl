# An SMS centre of Net::SMPP: what it is asked it prints, one line each; the last digits of a
# number say how it answers. Usage: smsc.pl PORT SYSTEM_ID PASSWORD
use strict;
use warnings;
use Net::SMPP;

my ($port, $system_id, $password) = @ARGV;
$| = 1;
$SIG{CHLD} = 'IGNORE';
my $listener = Net::SMPP->new_listen('127.0.0.1', port => $port, smpp_version => 0x34)
    or die "cannot listen: $!";
print "ready\n";
while (1) {
    my $client = $listener->accept or next;
    next if fork;
    serve($client);
    print "closed\n";
    exit;
}

sub serve {
    my ($client) = @_;
    my %busy;
    my $count = 0;
    while (my $pdu = $client->read_pdu) {
        if ($pdu->{cmd} == Net::SMPP::CMD_bind_transceiver || $pdu->{cmd} == Net::SMPP::CMD_bind_transmitter) {
            my $good = $pdu->{system_id} eq $system_id && $pdu->{password} eq $password;
            printf "bind %s %02x\n", $good ? 'good' : 'bad', $pdu->{interface_version};
            my $answer = $pdu->{cmd} == Net::SMPP::CMD_bind_transceiver
                ? 'bind_transceiver_resp' : 'bind_transmitter_resp';
            $client->$answer(
                seq => $pdu->{seq}, status => $good ? 0 : 0x0E, system_id => 'smsc'
            );
            return unless $good;
        } elsif ($pdu->{cmd} == Net::SMPP::CMD_submit_sm) {
            my $to = $pdu->{destination_addr};
            my $status = 0;
            $status = 0x0B if $to =~ /0011$/;
            $status = 0x58 if $to =~ /0058$/ && !$busy{$to}++;
            printf "submit to=%s from=%s ton=%d npi=%d coding=%d validity=%s status=%d text=%s\n",
                $to, $pdu->{source_addr}, $pdu->{dest_addr_ton}, $pdu->{dest_addr_npi},
                $pdu->{data_coding}, $pdu->{validity_period}, $status,
                unpack('H*', $pdu->{short_message});
            $client->submit_sm_resp(
                seq => $pdu->{seq}, status => $status, message_id => 'id-' . ++$count
            );
            if ($to =~ /0070$/) {
                # What a person answers, and a question whether the line is alive.
                $client->deliver_sm(
                    async => 1, seq => 501, source_addr => $to, destination_addr => 'tmad',
                    short_message => 'STOP'
                );
                $client->enquire_link(async => 1, seq => 502);
            }
        } elsif ($pdu->{cmd} == Net::SMPP::CMD_enquire_link) {
            print "enquire\n";
            $client->enquire_link_resp(seq => $pdu->{seq});
        } elsif ($pdu->{cmd} == Net::SMPP::CMD_unbind) {
            print "unbind\n";
            $client->unbind_resp(seq => $pdu->{seq});
            return;
        } else {
            printf "answer %x seq=%d status=%d\n", $pdu->{cmd}, $pdu->{seq}, $pdu->{status};
        }
    }
}
