# Date what the making of an image left behind as years of upgrades would have: a machine whose every folder and package
# record is of the same two minutes was made by a machine.
#
# Files that came in packages keep the dates that their packages gave them. A package's records in dpkg's database, its
# folders and its links are dated shortly after its newest file, and not before the day on which the template was
# installed. What nobody's package brought (postinst's doings) is of that day, caches are of the newest upgrade.
use strict;
use warnings;
use Fcntl ':mode';
use File::Find;

my $TEMPLATE = 1_697_017_380;    # 2023-10-11 09:43 UTC
my $DAY      = 86_400;
my $now      = time;
my ( %date_of, %owner_date );
my $newest_file = 0;

sub spread {    # a number below a bound that is the same for the same name
    my ( $name, $below ) = @_;
    my $sum = 7;
    $sum = ( $sum * 31 + ord ) % 1_000_003 for split //, $name;
    return $sum % $below;
}

my @lists = glob '/var/lib/dpkg/info/*.list';
for my $list (@lists) {
    my ($package) = $list =~ m{([^/]+)\.list$};
    my $newest = 0;
    if ( open my $sums, '<', "/var/lib/dpkg/info/$package.md5sums" ) {
        while (<$sums>) {
            chomp;
            my @state = lstat '/' . substr $_, 34;
            $newest = $state[9] if @state && $state[9] > $newest;
        }
    }
    $newest_file = $newest if $newest > $newest_file;
    my $date = $newest + $DAY / 4 + spread( $package, 3 * $DAY );
    $date = $TEMPLATE + spread( $package, 900 ) if $date < $TEMPLATE;
    $date = $now - $DAY if $date > $now - $DAY;
    $date_of{$package} = $date;
    open my $paths, '<', $list or die "$list: $!";
    while (<$paths>) {
        chomp;
        $owner_date{$_} = $date if !$owner_date{$_} || $owner_date{$_} < $date;
    }
}

my $latest = 0;
for ( values %date_of ) { $latest = $_ if $_ > $latest }

my %due;
find(
    {
        no_chdir => 1,
        wanted   => sub {
            if (m{^/(?:proc|sys|dev|run)$}) { $File::Find::prune = 1; return; }
            my @state = lstat;
            return if !@state;
            my $date;
            if (m{^/var/lib/dpkg/info/([^/]+)\.[a-z0-9]+$} && $date_of{$1}) { $date = $date_of{$1} }
            elsif ( $state[9] <= $newest_file ) { return }
            elsif (m{^/(?:var/cache|var/lib/dpkg|etc/ld\.so\.cache)}) { $date = $latest }
            else { $date = $owner_date{$_} || $TEMPLATE + spread( $_, 900 ) }
            push @{ $due{ int $date } }, $_;
        },
    },
    '/'
);

for my $date ( sort keys %due ) {
    open my $touch, '|-', 'xargs', '-0', 'touch', '-h', '-c', '-d', "\@$date", '--' or die "touch: $!";
    print {$touch} join "\0", @{ $due{$date} };
    close $touch or die "touch: $?";
}
