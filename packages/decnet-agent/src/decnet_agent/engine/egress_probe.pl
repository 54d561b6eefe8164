# Try to get out of a decky in every way, and print what each met. Run by the agent in a container of its own, which has
# the decky's network and CAP_NET_RAW, which no decky has; Perl is what every Debian image brings.
#
#   egress_probe.pl TARGET PORT
#
# A line of output is `NAME MET`: the errno, `silence`, `sent` for what waits for no answer, or `answered`, which is a way
# out. Frames go to the target's own MAC where the kernel knows it, else to everybody's next hop. Ports from PORT on are
# asked for, so that the record can tell each attempt. Exit code 3: the decky's interface cannot be used.
#
# Source: packet(7), netdevice(7), RFC 791, 792, 826, 8200.
use strict;
use warnings;

my ($target_text, $port) = @ARGV;
my ($wait_secs, $interface) = (0.3, 'eth0');
my ($AF_INET, $AF_PACKET, $STREAM, $DATAGRAM, $RAW) = (2, 17, 1, 2, 3);
my ($SIOCGIFINDEX, $SIOCGIFHWADDR, $SIOCGIFADDR) = (0x8933, 0x8927, 0x8915);
my ($SOL_SOCKET, $SO_BROADCAST, $F_SETFL, $O_NONBLOCK, $SO_ERROR) = (1, 6, 4, 2048, 4);

sub refuse { print STDERR "$_[0]: $!\n"; exit 3 }

socket(my $wire, $AF_PACKET, $RAW, 0) or refuse('no packet socket');

sub ask {
    my ($what) = @_;
    my $request = pack('a16 x24', $interface);
    socket(my $channel, $AF_INET, $DATAGRAM, 0) or refuse('no socket');
    ioctl($channel, $what, $request) or refuse($interface);
    return substr($request, 16);
}

my $index = unpack('i', ask($SIOCGIFINDEX));
my $mac = unpack('x2 a6', ask($SIOCGIFHWADDR));
my $own = unpack('x4 a4', ask($SIOCGIFADDR));
my $target = pack('C4', split(/\./, $target_text));
my ($foreign, $stranger) = (pack('C4', 10, 250, 250, 250), pack('C6', 2, 0, 94, 153, 153, 153));
my $mark = 'verify-containment';

# The kernel's own first try makes it ask who has the target; by now its table says.
sub next_hop {
    open(my $table, '<', '/proc/net/arp') or return "\xff" x 6;
    while (my $line = <$table>) {
        my ($address, undef, $flags, $hardware) = split(/\s+/, $line);
        return pack('(H2)6', split(/:/, $hardware)) if $address eq $target_text && $flags eq '0x2';
    }
    return "\xff" x 6;
}

sub ready {
    my ($channel, $write) = @_;
    my $bits = '';
    vec($bits, fileno($channel), 1) = 1;
    return $write ? select(undef, $bits, undef, $wait_secs) : select($bits, undef, undef, $wait_secs);
}

sub say_met { print "$_[0] $_[1]\n" }

sub name_of { return 'E' . ($! + 0) }

sub connection {
    my ($name, $number) = @_;
    socket(my $channel, $AF_INET, $STREAM, 6) or return say_met($name, name_of());
    fcntl($channel, $F_SETFL, $O_NONBLOCK);
    my $there = pack('S n a4 x8', $AF_INET, $number, $target);
    return say_met($name, 'answered') if connect($channel, $there);
    return say_met($name, 'silence') if ready($channel, 1) <= 0;
    my $error = unpack('i', getsockopt($channel, $SOL_SOCKET, $SO_ERROR));
    # a refusal is an answer, too
    say_met($name, $error == 0 || $error == 111 ? 'answered' : "E$error");
}

sub datagram {
    my ($name, $number, $to) = @_;
    socket(my $channel, $AF_INET, $DATAGRAM, 17) or return say_met($name, name_of());
    setsockopt($channel, $SOL_SOCKET, $SO_BROADCAST, pack('i', 1));
    defined send($channel, $mark, 0, pack('S n a4 x8', $AF_INET, $number, $to)) or return say_met($name, name_of());
    say_met($name, ready($channel, 0) > 0 ? 'answered' : 'silence');
}

sub echo {
    my ($name) = @_;
    socket(my $channel, $AF_INET, $RAW, 1) or return say_met($name, name_of());
    my $message = checked(pack('C C n n n', 8, 0, 0, 7, 7) . $mark, 2);
    defined send($channel, $message, 0, pack('S n a4 x8', $AF_INET, 0, $target)) or return say_met($name, name_of());
    say_met($name, ready($channel, 0) > 0 ? 'answered' : 'silence');
}

sub frame {
    my ($name, $from, $to, $type, $payload) = @_;
    my $there = pack('S n i S C C a8', $AF_PACKET, $type, $index, 0, 0, 6, $to);
    my $sent = send($wire, $to . $from . pack('n', $type) . $payload, 0, $there);
    say_met($name, defined $sent ? 'sent' : name_of());
}

sub sum {
    my ($data) = @_;
    my $total = 0;
    $total += $_ for unpack('n*', length($data) % 2 ? "$data\0" : $data);
    $total = ($total & 0xffff) + ($total >> 16) while $total >> 16;
    return ~$total & 0xffff;
}

sub checked {
    my ($data, $at) = @_;
    substr($data, $at, 2) = pack('n', sum($data));
    return $data;
}

sub ip {
    my ($from, $protocol, $payload) = @_;
    return checked(pack('C C n n n C C n a4 a4', 0x45, 0, 20 + length($payload), 1, 0, 64, $protocol, 0, $from, $target),
        10) . $payload;
}

sub tcp {
    my ($from, $number, $flags) = @_;
    my $segment = pack('n n N N C C n n n', 40000, $number, 1, 0, 0x50, $flags, 1024, 0, 0);
    my $pseudo = $from . $target . pack('n n', 6, length($segment));
    substr($segment, 16, 2) = pack('n', sum($pseudo . $segment));
    return ip($from, 6, $segment);
}

sub arp {
    my ($sender, $address, $to) = @_;
    return pack('n n C C n a6 a4 a6 a4', 1, 0x0800, 6, 4, 2, $sender, $address, $to, $target);
}

connection('tcp', $port);
my $to = next_hop();
datagram('udp', $port + 1, $target);
datagram('dns', 53, $target);
echo('icmp');
frame('raw-tcp', $mac, $to, 0x0800, tcp($own, $port + 2, 2));
frame('raw-udp', $mac, $to, 0x0800, ip($own, 17, pack('n n n n', 40000, $port + 3, 26, 0) . $mark));
frame('false-ip', $mac, $to, 0x0800, tcp($foreign, $port + 4, 0x12));
frame('false-mac', $stranger, $to, 0x0800, tcp($own, $port + 5, 0x12));
frame('arp', $mac, $to, 0x0806, arp($mac, $foreign, $to));
frame('ipv6', $mac, $to, 0x86dd, pack('N n C C', 0x60000000, length($mark), 58, 255) . pack('C2 x13 C', 0xfe, 0x80, 1)
    . pack('C2 x13 C', 0xff, 2, 1) . $mark);
