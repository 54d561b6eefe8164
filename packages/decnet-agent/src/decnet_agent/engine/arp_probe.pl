# Ask a LAN who has some IPv4 addresses, and print who says so. Run by the agent in a container of its own, which has the
# host's network, CAP_NET_RAW and nothing else; Perl is what every Debian image brings.
#
#   arp_probe.pl INTERFACE ADDRESS...
#
# Three ARP probes for each address (sender 0.0.0.0: they enter nobody's cache), then a pause for late answers. A line of
# output is `ADDRESS MAC has` for a machine that says that it has the address, by an answer, a request of its own or an
# announcement, or `ADDRESS MAC asks` for one that probes for it as we do. At most four lines for each address: there
# may be somebody who answers for all of them under a thousand names. Exit code 3: the interface cannot be used.
#
# Source: RFC 826, RFC 5227 section 2.1.1, packet(7), netdevice(7).
use strict;
use warnings;

my ($interface, @addresses) = @ARGV;
my ($probes, $pause_secs, $last_secs, $lines) = (3, 0.25, 0.4, 4);
my $packets = 20_000;    # that are looked at in one pause: a flood ends it
my ($AF_PACKET, $SOCK_DGRAM, $ETH_P_ARP) = (17, 2, 0x0806);
my ($SIOCGIFINDEX, $SIOCGIFHWADDR) = (0x8933, 0x8927);

sub refuse { print STDERR "$_[0]: $!\n"; exit 3 }

my $protocol = unpack('S', pack('n', $ETH_P_ARP));
socket(my $lan, $AF_PACKET, $SOCK_DGRAM, $protocol) or refuse('no packet socket');
my $request = pack('a16 x24', $interface);
ioctl($lan, $SIOCGIFINDEX, $request) or refuse($interface);
my $index = unpack('x16 i', $request);
$request = pack('a16 x24', $interface);
ioctl($lan, $SIOCGIFHWADDR, $request) or refuse($interface);
my $mac = unpack('x18 a6', $request);
bind($lan, pack('S n i S C C a8', $AF_PACKET, $ETH_P_ARP, $index, 0, 0, 0, '')) or refuse($interface);
my $everybody = pack('S n i S C C a8', $AF_PACKET, $ETH_P_ARP, $index, 1, 0, 6, "\xff" x 6);

my %asked = map { pack('C4', split(/\./)) => $_ } @addresses;
my %said;

sub note {
    my ($packet) = @_;
    return if length($packet) < 28;
    my ($hardware, $network, $hardware_bytes, $network_bytes, $operation, $sender_mac, $sender, undef, $target)
        = unpack('n n C C n a6 a4 a6 a4', $packet);
    return if $hardware != 1 || $network != 0x0800 || $hardware_bytes != 6 || $network_bytes != 4;
    return if $sender_mac eq $mac || ord($sender_mac) & 1 || $sender_mac eq "\0" x 6;
    my $is_probe = $operation == 1 && $sender eq "\0" x 4;
    my $address = $asked{$is_probe ? $target : $sender};
    return if !defined $address;
    my $line = join(' ', $address, join(':', unpack('(H2)6', $sender_mac)), $is_probe ? 'asks' : 'has');
    return if $said{$address}{$line} || keys %{$said{$address}} >= $lines;
    $said{$address}{$line} = 1;
    print "$line\n";
}

sub listen_for {
    my ($secs) = @_;
    my $until = now() + $secs;
    for (1 .. $packets) {
        my $left = $until - now();
        my $ready = '';
        vec($ready, fileno($lan), 1) = 1;
        # also once the time is over: on a busy machine it may have passed while an answer lay here
        return if select($ready, undef, undef, $left > 0 ? $left : 0) <= 0;
        if (defined recv($lan, my $packet, 128, 0)) { note($packet) }
    }
}

# CLOCK_MONOTONIC, without a module that a small Perl lacks; the clock of the wall may be set meanwhile.
sub now {
    open(my $uptime, '<', '/proc/uptime') or refuse('/proc/uptime');
    return (split(/ /, <$uptime>))[0];
}

for (1 .. $probes) {
    for my $target (keys %asked) {
        my $probe = pack('n n C C n a6 a4 a6 a4', 1, 0x0800, 6, 4, 1, $mac, "\0" x 4, "\0" x 6, $target);
        defined send($lan, $probe, 0, $everybody) or refuse($interface);
    }
    listen_for($pause_secs);
}
listen_for($last_secs);
