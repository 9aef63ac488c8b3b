//! What a Nexmark event is, as a pure function of its number, in integer arithmetic only.
//!
//! Of every 50 events one is a person, three are auctions and 46 are bids. Half of the bids go to the hot auction, three of
//! four bids come from the hot bidder and three of four auctions from the hot seller; what is hot changes with every
//! hundred auctions and persons. (Tucker, Tufte, Papadimos, Maier: NEXMark, a benchmark for queries over data streams.)

use super::hash::Draws;

const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
const EVENTS: u64 = PERSONS + AUCTIONS + BIDS;

const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// Auctions that take bids at a time.
const AUCTIONS_OPEN: u64 = 100;
/// Persons that bid and sell at a time.
const PERSONS_ACTIVE: u64 = 1000;
/// Ids share one hot id in blocks of this size.
const HOT_BLOCK: u64 = 100;
const SEED: u64 = 0x6e65_786d_6172_6b31;

/// 10^(i/16) in millionths.
const POWERS: [u64; 17] = [
    1_000_000, 1_154_782, 1_333_521, 1_539_927, 1_778_279, 2_053_525, 2_371_374, 2_738_420, 3_162_278,
    3_651_741, 4_216_965, 4_869_675, 5_623_413, 6_493_816, 7_498_942, 8_659_643, 10_000_000,
];

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 9] = [
    "Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris",
];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const CHANNELS: u64 = 10_000;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entity {
    Person,
    Auction,
    Bid,
}

impl Entity {
    /// Place of the first within 50 events, and how many there are.
    fn share(self) -> (u64, u64) {
        match self {
            Self::Person => (0, PERSONS),
            Self::Auction => (PERSONS, AUCTIONS),
            Self::Bid => (PERSONS + AUCTIONS, BIDS),
        }
    }

    /// How many of the first `events` events are of this kind.
    pub(super) fn count(self, events: u64) -> u64 {
        let (first, share) = self.share();
        let in_last = (events % EVENTS).saturating_sub(first).min(share);
        events / EVENTS * share + in_last
    }

    /// The event number of the n-th of this kind.
    fn event(self, n: u64) -> u64 {
        let (first, share) = self.share();
        n / share * EVENTS + first + n % share
    }
}

/// When events happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    pub(super) base_us: i64,
    pub(super) delay_us: u64,
}

impl Model {
    fn time_us(&self, event: u64) -> i64 {
        let after = i64::try_from(event.saturating_mul(self.delay_us)).unwrap_or(i64::MAX);
        self.base_us.saturating_add(after)
    }
}

/// A string column being filled.
pub(super) struct Strings {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Strings {
    pub(super) fn with_capacity(count: usize) -> Self {
        let mut offsets = Vec::with_capacity(count + 1);
        offsets.push(0);
        Self {
            offsets,
            bytes: Vec::with_capacity(count * 32),
        }
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Appends random lower-case letters.
    fn letters(&mut self, draws: &mut Draws, count: u64) {
        let mut left = usize::try_from(count).unwrap_or(0);
        while left > 0 {
            let word = draws.next().to_le_bytes();
            let now = left.min(word.len());
            self.bytes.extend(
                word[..now]
                    .iter()
                    .map(|b| b'a' + u8::try_from((u32::from(*b) * 26) >> 8).unwrap_or(0)),
            );
            left -= now;
        }
    }

    fn number(&mut self, value: u64, width: usize) {
        let mut buffer = [b'0'; 20];
        let (mut at, mut value) = (20, value);
        while value > 0 || 20 - at < width.max(1) {
            at -= 1;
            buffer[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
        self.bytes.extend_from_slice(&buffer[at..]);
    }

    /// The value is complete.
    pub(super) fn end(&mut self) {
        self.offsets
            .push(i32::try_from(self.bytes.len()).unwrap_or(i32::MAX));
    }

    pub(super) fn into_parts(self) -> (Vec<i32>, Vec<u8>) {
        (self.offsets, self.bytes)
    }
}

/// Columns draw from streams of their own, so that leaving one out changes no other.
fn draws(event: u64, column: u64) -> Draws {
    Draws::new(SEED, column, event)
}

fn pick<'t>(draws: &mut Draws, from: &[&'t str]) -> &'t str {
    let index = usize::try_from(draws.below(from.len() as u64)).unwrap_or(0);
    from.get(index).copied().unwrap_or_default()
}

/// Log-uniform between 1 and 1,000,000 dollars, in cents.
fn price(draws: &mut Draws) -> u64 {
    let decade = u32::try_from(draws.below(6)).unwrap_or(0);
    let place = draws.below(16 << 16);
    let step = usize::try_from(place >> 16).unwrap_or(0);
    let within = place & 0xffff;
    let (low, high) = (POWERS[step], POWERS[step + 1]);
    let millionths = low + (((high - low) * within) >> 16);
    millionths * 10u64.pow(decade) / 10_000
}

/// Filler of about `average` characters, a fifth more or less.
fn filler(strings: &mut Strings, draws: &mut Draws, average: u64) {
    let spread = average / 5;
    let length = average - spread + draws.below(2 * spread + 1);
    strings.letters(draws, length);
}

/// Ordinal of the newest auction when an event happens.
fn last_auction(event: u64) -> u64 {
    let place = event % EVENTS;
    let of_block = event / EVENTS * AUCTIONS;
    if place < PERSONS {
        of_block.saturating_sub(1)
    } else {
        of_block + (place - PERSONS).min(AUCTIONS - 1)
    }
}

/// Ordinal of the newest person.
fn last_person(event: u64) -> u64 {
    event / EVENTS
}

fn some_person(draws: &mut Draws, event: u64) -> u64 {
    let last = last_person(event);
    let active = PERSONS_ACTIVE.min(last + 1);
    last + 1 - active + draws.below(active)
}

/// Bids.
pub(super) struct Bid;

impl Bid {
    pub(super) fn auction(_: &Model, n: u64) -> i64 {
        let event = Entity::Bid.event(n);
        let mut draws = draws(event, 1);
        let last = last_auction(event);
        let ordinal = if draws.below(2) > 0 {
            last / HOT_BLOCK * HOT_BLOCK
        } else {
            let open = AUCTIONS_OPEN.min(last + 1);
            last + 1 - open + draws.below(open)
        };
        (FIRST_ID + ordinal).cast_signed()
    }

    pub(super) fn bidder(_: &Model, n: u64) -> i64 {
        let event = Entity::Bid.event(n);
        let mut draws = draws(event, 2);
        let ordinal = if draws.below(4) > 0 {
            // The block's second person, so that hot bidders are not hot sellers.
            (last_person(event) / HOT_BLOCK * HOT_BLOCK + 1).min(last_person(event))
        } else {
            some_person(&mut draws, event)
        };
        (FIRST_ID + ordinal).cast_signed()
    }

    pub(super) fn price(_: &Model, n: u64) -> i64 {
        price(&mut draws(Entity::Bid.event(n), 3)).cast_signed()
    }

    pub(super) fn channel(_: &Model, n: u64, out: &mut Strings) {
        match channel_of(n) {
            Channel::Hot(index) => out.push(HOT_CHANNELS[index]),
            Channel::Other(number) => {
                out.push("channel-");
                out.number(number, 1);
            }
        }
    }

    pub(super) fn url(_: &Model, n: u64, out: &mut Strings) {
        // A channel has one page.
        let channel = channel_of(n);
        let page = match channel {
            Channel::Hot(index) => CHANNELS + index as u64,
            Channel::Other(number) => number,
        };
        let mut draws = draws(page, 5);
        out.push("https://www.nexmark.com/");
        for _ in 0..3 {
            out.letters(&mut draws, 5);
            out.push("/");
        }
        out.push("item.htm?query=1");
        if let Channel::Other(number) = channel {
            out.push("&channel_id=");
            out.number(number, 1);
        }
    }

    pub(super) fn time_us(model: &Model, n: u64) -> i64 {
        model.time_us(Entity::Bid.event(n))
    }

    pub(super) fn extra(_: &Model, n: u64, out: &mut Strings) {
        filler(out, &mut draws(Entity::Bid.event(n), 6), 68);
    }
}

enum Channel {
    Hot(usize),
    Other(u64),
}

fn channel_of(n: u64) -> Channel {
    let mut draws = draws(Entity::Bid.event(n), 4);
    if draws.below(2) > 0 {
        let index = draws.below(HOT_CHANNELS.len() as u64);
        Channel::Hot(usize::try_from(index).unwrap_or(0))
    } else {
        Channel::Other(draws.below(CHANNELS))
    }
}

/// Auctions.
pub(super) struct Auction;

impl Auction {
    pub(super) fn id(_: &Model, n: u64) -> i64 {
        (FIRST_ID + n).cast_signed()
    }

    pub(super) fn item_name(_: &Model, n: u64, out: &mut Strings) {
        filler(out, &mut draws(Entity::Auction.event(n), 11), 20);
    }

    pub(super) fn description(_: &Model, n: u64, out: &mut Strings) {
        filler(out, &mut draws(Entity::Auction.event(n), 12), 100);
    }

    pub(super) fn initial_bid(_: &Model, n: u64) -> i64 {
        price(&mut draws(Entity::Auction.event(n), 13)).cast_signed()
    }

    pub(super) fn reserve(model: &Model, n: u64) -> i64 {
        let above = price(&mut draws(Entity::Auction.event(n), 14)).cast_signed();
        Self::initial_bid(model, n) + above
    }

    pub(super) fn time_us(model: &Model, n: u64) -> i64 {
        model.time_us(Entity::Auction.event(n))
    }

    /// Auctions stay open so long that about a hundred are open at a time.
    pub(super) fn expires_us(model: &Model, n: u64) -> i64 {
        let event = Entity::Auction.event(n);
        let events_open = AUCTIONS_OPEN * EVENTS / AUCTIONS;
        let horizon_ms = (events_open.saturating_mul(model.delay_us) / 1000).max(1);
        let open_ms = 1 + draws(event, 15).below(2 * horizon_ms);
        model.time_us(event).saturating_add(open_ms.cast_signed() * 1000)
    }

    pub(super) fn seller(_: &Model, n: u64) -> i64 {
        let event = Entity::Auction.event(n);
        let mut draws = draws(event, 16);
        let ordinal = if draws.below(4) > 0 {
            last_person(event) / HOT_BLOCK * HOT_BLOCK
        } else {
            some_person(&mut draws, event)
        };
        (FIRST_ID + ordinal).cast_signed()
    }

    pub(super) fn category(_: &Model, n: u64) -> i64 {
        (FIRST_CATEGORY + draws(Entity::Auction.event(n), 17).below(CATEGORIES)).cast_signed()
    }

    pub(super) fn extra(_: &Model, n: u64, out: &mut Strings) {
        filler(out, &mut draws(Entity::Auction.event(n), 18), 320);
    }
}

/// Persons.
pub(super) struct Person;

impl Person {
    pub(super) fn id(_: &Model, n: u64) -> i64 {
        (FIRST_ID + n).cast_signed()
    }

    pub(super) fn name(_: &Model, n: u64, out: &mut Strings) {
        let mut draws = draws(Entity::Person.event(n), 21);
        out.push(pick(&mut draws, &FIRST_NAMES));
        out.push(" ");
        out.push(pick(&mut draws, &LAST_NAMES));
    }

    pub(super) fn email(_: &Model, n: u64, out: &mut Strings) {
        let mut draws = draws(Entity::Person.event(n), 22);
        out.letters(&mut draws, 7);
        out.push("@");
        out.letters(&mut draws, 5);
        out.push(".com");
    }

    pub(super) fn credit_card(_: &Model, n: u64, out: &mut Strings) {
        let mut draws = draws(Entity::Person.event(n), 23);
        for group in 0..4 {
            if group > 0 {
                out.push(" ");
            }
            out.number(draws.below(10_000), 4);
        }
    }

    pub(super) fn city(_: &Model, n: u64, out: &mut Strings) {
        out.push(pick(&mut draws(Entity::Person.event(n), 24), &CITIES));
    }

    pub(super) fn state(_: &Model, n: u64, out: &mut Strings) {
        out.push(pick(&mut draws(Entity::Person.event(n), 25), &STATES));
    }

    pub(super) fn time_us(model: &Model, n: u64) -> i64 {
        model.time_us(Entity::Person.event(n))
    }

    pub(super) fn extra(_: &Model, n: u64, out: &mut Strings) {
        filler(out, &mut draws(Entity::Person.event(n), 26), 125);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_share_the_events_without_gap_or_overlap() {
        let mut seen = vec![0; 1000];
        for kind in [Entity::Person, Entity::Auction, Entity::Bid] {
            let count = kind.count(1000);
            for n in 0..count {
                seen[usize::try_from(kind.event(n)).unwrap_or(0)] += 1;
            }
            for events in 0..200 {
                let direct = (0..count).filter(|n| kind.event(*n) < events).count() as u64;
                assert_eq!(kind.count(events), direct, "{kind:?} {events}");
            }
        }
        assert!(seen.iter().all(|n| *n == 1));
    }

    #[test]
    fn references_point_to_what_exists_by_then() {
        let model = Model {
            base_us: 0,
            delay_us: 100,
        };
        for n in 0..20_000 {
            let event = Entity::Bid.event(n);
            let (auctions, persons) = (Entity::Auction.count(event), Entity::Person.count(event));
            assert!(
                Bid::auction(&model, n) < (FIRST_ID + auctions).cast_signed(),
                "bid {n}"
            );
            assert!(
                Bid::bidder(&model, n) < (FIRST_ID + persons).cast_signed(),
                "bid {n}"
            );
            let price = Bid::price(&model, n);
            assert!((100..=100_000_000).contains(&price), "{price}");
        }
        for n in 0..5_000 {
            let persons = Entity::Person.count(Entity::Auction.event(n));
            assert!(Auction::seller(&model, n) < (FIRST_ID + persons).cast_signed());
            assert!(Auction::expires_us(&model, n) > Auction::time_us(&model, n));
        }
    }

    #[test]
    fn half_of_the_bids_are_hot() {
        let model = Model {
            base_us: 0,
            delay_us: 100,
        };
        let hot = (100_000..110_000)
            .filter(|n| (Bid::auction(&model, *n) - 1000) % 100 == 0)
            .count();
        assert!((4_700..5_400).contains(&hot), "{hot}");
    }
}
