//! Which snapshots are kept and which are forgotten: rules over time and tags, applied to each group of snapshots.
//!
//! A pure function of what it is given; clock and time zone come in as parameters. Knows nothing of how a snapshot is
//! removed (`repo/repository`).
//!
//! The rules are those that people know from restic: of each hour, day, ISO week, month or year that has snapshots, in
//! the zone given, the newest snapshot stands for it; the newest N such periods are kept; while there are fewer, the
//! oldest snapshot of the group is kept too, so that a history grows to its full length. What restic leaves to the
//! clock of each machine is decided here so that a clock that was wrong costs nothing that is needed:
//!
//! * The latest commit of a group is kept whenever there is a rule, whatever its time says.
//! * What claims a time after `Calendar::now` is kept by rules over time and takes no other's place in them. If it is
//!   the machine at work whose clock has fallen behind, then everything lies ahead, and everything is kept.
//! * `Rule::Last` keeps the last N commits and also the N newest by time. These are the same, except after a wrong clock
//!   or a copy of old snapshots.
//! * A period counts once, even where the clocks were put back across its end.
//!
//! Applied to what it has kept, a policy forgets nothing more.

use crate::{
    error::{Error, Result},
    repo::{snapshot::Snapshot, tree::Time},
};
use jiff::{Span, Timestamp, ZonedDateTime, tz::TimeZone};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    fmt,
};

/// What is kept. Without rules nothing is, but what is protected.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// A snapshot is kept if any of these keeps it.
    pub rules: Vec<Rule>,
}

/// One reason to keep snapshots.
#[derive(Debug, Clone)]
pub enum Rule {
    /// The last made.
    Last(Count),
    /// The newest of each period, of the newest periods that have any.
    Every(Period, Count),
    /// Everything less than this older than the newest.
    Within(Within),
    /// The newest of each period, less than this older than the newest.
    EveryWithin(Period, Within),
    /// Everything that has all of these tags; without any, everything that has none.
    Tags(Vec<String>),
}

/// How many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// At most so many.
    Of(u32),
    /// However many there are.
    All,
}

impl Count {
    fn has_room(self, taken: usize) -> bool {
        match self {
            Self::Of(n) => taken < n as usize,
            Self::All => true,
        }
    }
}

/// A stretch of the calendar, from its natural start to its natural end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From :00 to :59. The hour that comes twice when clocks are put back is two.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday, as ISO 8601 numbers them.
    Week,
    /// A month of the calendar.
    Month,
    /// A year of the calendar.
    Year,
}

impl Period {
    /// The name of the one that holds a moment; two moments are in the same one if and only if the names are equal.
    fn name(self, moment: &ZonedDateTime) -> String {
        match self {
            Self::Hour => moment.strftime("%Y-%m-%d %H:00%:z").to_string(),
            Self::Day => moment.strftime("%Y-%m-%d").to_string(),
            Self::Week => moment.strftime("%G-W%V").to_string(),
            Self::Month => moment.strftime("%Y-%m").to_string(),
            Self::Year => moment.strftime("%Y").to_string(),
        }
    }

    fn adverb(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// A length of time by the calendar: `1y5m7d2h`.
#[derive(Debug, Clone)]
pub struct Within {
    text: String,
    span: Span,
}

impl Within {
    /// Makes sense of years, months, weeks, days and hours, each at most once: `1y5m2w7d2h`.
    ///
    /// # Errors
    /// `Usage` where the text is none, is nothing at all, or is longer than a calendar.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::Usage(format!("{text:?} is no length of time: write it as in 1y5m7d2h, 30d or 2w"));
        let (mut span, mut rest, mut seen, mut total) = (Span::new(), text, HashSet::new(), 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, tail) = rest.split_at_checked(digits).ok_or_else(bad)?;
            let unit = tail.chars().next().ok_or_else(bad)?;
            let number: u32 = number.parse().map_err(|_| bad())?;
            span = match unit {
                'y' => span.try_years(number),
                'm' => span.try_months(number),
                'w' => span.try_weeks(number),
                'd' => span.try_days(number),
                'h' => span.try_hours(number),
                _ => return Err(bad()),
            }
            .map_err(|_| bad())?;
            if !seen.insert(unit) {
                return Err(bad());
            }
            total += u64::from(number);
            rest = tail.get(unit.len_utf8()..).unwrap_or_default();
        }
        if total == 0 { Err(bad()) } else { Ok(Self { text: text.to_owned(), span }) }
    }

    /// Whether a moment is less than this before the newest. What reaches back beyond the calendar holds everything.
    fn holds(&self, moment: &ZonedDateTime, newest: &ZonedDateTime) -> bool {
        newest.checked_sub(self.span).map_or(true, |start| moment.timestamp() > start.timestamp())
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is the same for all snapshots of a group.
#[derive(Debug, Clone, Copy)]
pub struct GroupBy {
    /// The cluster.
    pub cluster: bool,
    /// The machine.
    pub host: bool,
    /// The paths that were backed up.
    pub paths: bool,
    /// The tags, in whatever order.
    pub tags: bool,
}

/// What the snapshots of a group have in common; nothing where it was not asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The name of the cluster; empty where a snapshot is of none.
    pub cluster: Option<String>,
    /// The machine.
    pub host: Option<Vec<u8>>,
    /// The paths that were backed up, in order; none for a snapshot of a cluster, whose paths are what was found there.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The tags, in order.
    pub tags: Option<Vec<String>>,
}

impl GroupKey {
    fn of(snapshot: &Snapshot, by: GroupBy) -> Self {
        fn in_order<T: Clone + Ord>(words: &[T]) -> Vec<T> {
            let mut words = words.to_vec();
            words.sort();
            words.dedup();
            words
        }
        Self {
            cluster: by.cluster.then(|| snapshot.cluster.as_ref().map(|c| c.name.clone()).unwrap_or_default()),
            host: by.host.then(|| snapshot.host.clone()),
            paths: by.paths.then(|| in_order(snapshot.asked_for())),
            tags: by.tags.then(|| in_order(&snapshot.tags)),
        }
    }
}

/// The time by which a policy is applied.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// What the clock says now.
    pub now: Time,
    /// Where days begin and end.
    pub zone: TimeZone,
}

impl Calendar {
    /// The moment of a time; one that no calendar has becomes the nearest that it has, so that the order stays.
    fn moment(&self, time: Time) -> ZonedDateTime {
        let nearest = if time.seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let stamp = Timestamp::new(time.seconds, i32::try_from(time.nanoseconds.min(999_999_999)).unwrap_or_default());
        stamp.unwrap_or(nearest).to_zoned_datetime(self.zone.clone())
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is protected.
    Protected,
    /// A newer record of it is damaged, which may have protected it.
    Doubtful,
    /// It is the latest commit of its group.
    Latest,
    /// It claims a time that is yet to come.
    Ahead,
    /// It is among the last: which, counted from the newest.
    Last(usize),
    /// As `Last`, by its time, though not by its commit.
    LastByTime(usize),
    /// It stands for a period: which, counted from the newest, and its name.
    Every(Period, usize, String),
    /// It is the oldest of its group, and there were fewer periods than are to be kept.
    Oldest(Period, String),
    /// It is new enough.
    Within(String),
    /// It stands for a period that is new enough: the length of time, and the period's name.
    EveryWithin(Period, String, String),
    /// It is the oldest of its group, and new enough to stand for a period besides another.
    OldestWithin(Period, String, String),
    /// It has these tags, or has none.
    Tags(Vec<String>),
}

impl Reason {
    /// Whether a rule is the reason, rather than what holds for every policy.
    fn is_of_rule(&self) -> bool {
        !matches!(self, Self::Protected | Self::Doubtful | Self::Latest)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected => f.write_str("protected"),
            Self::Doubtful => f.write_str("a newer record of it is damaged, and may have protected it"),
            Self::Latest => f.write_str("latest"),
            Self::Ahead => f.write_str("its time is yet to come"),
            Self::Last(n) => write!(f, "last {n}"),
            Self::LastByTime(n) => write!(f, "last {n} by time"),
            Self::Every(period, n, name) => write!(f, "{} {n}: {name}", period.adverb()),
            Self::Oldest(period, name) => write!(f, "oldest, {}: {name}", period.adverb()),
            Self::Within(text) => write!(f, "within {text}"),
            Self::EveryWithin(period, text, name) => write!(f, "{} within {text}: {name}", period.adverb()),
            Self::OldestWithin(period, text, name) => write!(f, "oldest, {} within {text}: {name}", period.adverb()),
            Self::Tags(tags) if tags.is_empty() => f.write_str("no tags"),
            Self::Tags(tags) => write!(f, "tags {}", tags.join(",")),
        }
    }
}

/// A snapshot, and why it is kept; without a reason it is forgotten.
#[derive(Debug, Clone)]
pub struct Judged<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Every reason there is.
    pub reasons: Vec<Reason>,
}

/// Snapshots that a policy was applied to together.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// What they have in common.
    pub key: GroupKey,
    /// Each, the oldest commit first.
    pub judged: Vec<Judged<'a>>,
}

impl Group<'_> {
    /// Whether snapshots are forgotten and no rule keeps any: a rule with a slip of the pen looks so.
    pub fn is_emptied(&self) -> bool {
        self.judged.iter().any(|j| j.reasons.is_empty())
            && !self.judged.iter().any(|j| j.reasons.iter().any(Reason::is_of_rule))
    }

    /// Keeps those besides of which it is not known what was recorded last. They take no place of another.
    pub fn keep_doubtful(&mut self, is_doubtful: impl Fn(&Snapshot) -> bool) {
        self.judged.iter_mut().filter(|j| is_doubtful(j.snapshot)).for_each(|j| j.reasons.push(Reason::Doubtful));
    }
}

impl Policy {
    /// Says of each snapshot whether and why it is kept, group by group.
    pub fn apply<'a>(
        &self,
        snapshots: impl IntoIterator<Item = &'a Snapshot>,
        by: GroupBy,
        calendar: &Calendar,
    ) -> Vec<Group<'a>> {
        let mut groups = BTreeMap::<GroupKey, Vec<&Snapshot>>::new();
        for snapshot in snapshots {
            groups.entry(GroupKey::of(snapshot, by)).or_default().push(snapshot);
        }
        let judge = |(key, mut members): (GroupKey, Vec<&'a Snapshot>)| {
            members.sort_by_key(|s| (s.commit, s.time, s.id));
            Group { key, judged: self.judge(&members, calendar) }
        };
        groups.into_iter().map(judge).collect()
    }

    /// Judges the members of one group, the oldest commit first.
    fn judge<'a>(&self, members: &[&'a Snapshot], calendar: &Calendar) -> Vec<Judged<'a>> {
        let ordered = Ordered::new(members, calendar);
        let mut judged: Vec<Judged<'_>> =
            members.iter().map(|snapshot| Judged { snapshot, reasons: Vec::new() }).collect();
        let protected = judged.iter_mut().filter(|j| j.snapshot.protected);
        protected.for_each(|j| j.reasons.push(Reason::Protected));
        if let (false, Some(latest)) = (self.rules.is_empty(), judged.last_mut()) {
            latest.reasons.push(Reason::Latest);
        }
        let over_time = self.rules.iter().any(|rule| !matches!(rule, Rule::Last(_) | Rule::Tags(_)));
        let ahead = over_time.then(|| ordered.ahead.iter().map(|at| (*at, Reason::Ahead))).into_iter().flatten();
        for (at, reason) in ahead.chain(self.rules.iter().flat_map(|rule| ordered.kept_by(rule))) {
            if let Some(j) = judged.get_mut(at) {
                j.reasons.push(reason);
            }
        }
        judged
    }
}

/// The members of a group by their numbers, the oldest commit first.
struct Ordered<'a> {
    members: &'a [&'a Snapshot],
    /// Those whose time has come, the newest first, and the moments of their times.
    by_time: Vec<(usize, ZonedDateTime)>,
    /// Those whose time has not.
    ahead: Vec<usize>,
}

impl<'a> Ordered<'a> {
    fn new(members: &'a [&'a Snapshot], calendar: &Calendar) -> Self {
        let (mut past, ahead): (Vec<_>, Vec<_>) = members.iter().enumerate().partition(|(_, s)| s.time <= calendar.now);
        past.sort_by_key(|(at, s)| Reverse((s.time, *at)));
        Self {
            members,
            by_time: past.into_iter().map(|(at, s)| (at, calendar.moment(s.time))).collect(),
            ahead: ahead.into_iter().map(|(at, _)| at).collect(),
        }
    }

    fn kept_by(&self, rule: &Rule) -> Vec<(usize, Reason)> {
        match rule {
            Rule::Last(count) => self.last(*count),
            Rule::Every(period, count) => self.every(*period, *count),
            Rule::Within(within) => {
                self.new_enough(within).iter().map(|(at, _)| (*at, Reason::Within(within.to_string()))).collect()
            }
            Rule::EveryWithin(period, within) => self.every_within(*period, within),
            Rule::Tags(tags) => {
                let fits = |s: &Snapshot| match tags.as_slice() {
                    [] => s.tags.is_empty(),
                    tags => tags.iter().all(|tag| s.tags.contains(tag)),
                };
                let fitting = self.members.iter().enumerate().filter(|(_, s)| fits(s));
                fitting.map(|(at, _)| (at, Reason::Tags(tags.clone()))).collect()
            }
        }
    }

    fn last(&self, count: Count) -> Vec<(usize, Reason)> {
        let by_commit = (0..self.members.len()).rev().enumerate().take_while(|(taken, _)| count.has_room(*taken));
        let mut kept: Vec<_> = by_commit.map(|(taken, at)| (at, Reason::Last(taken + 1))).collect();
        let by_time = self.by_time.iter().enumerate().take_while(|(taken, _)| count.has_room(*taken));
        let also = by_time.filter(|(_, (at, _))| !kept.iter().any(|(by_commit, _)| at == by_commit));
        let also: Vec<_> = also.map(|(taken, (at, _))| (*at, Reason::LastByTime(taken + 1))).collect();
        kept.extend(also);
        kept
    }

    fn every(&self, period: Period, count: Count) -> Vec<(usize, Reason)> {
        let firsts = firsts(&self.by_time, period);
        let numbered = firsts.iter().enumerate().take_while(|(taken, _)| count.has_room(*taken));
        let mut kept: Vec<_> =
            numbered.map(|(taken, (at, name))| (*at, Reason::Every(period, taken + 1, name.clone()))).collect();
        if count != Count::Of(0) && count.has_room(firsts.len()) {
            kept.extend(oldest(&self.by_time, &firsts).map(|(at, m)| (at, Reason::Oldest(period, period.name(m)))));
        }
        kept
    }

    fn every_within(&self, period: Period, within: &Within) -> Vec<(usize, Reason)> {
        let new_enough = self.new_enough(within);
        let firsts = firsts(new_enough, period);
        let mut kept: Vec<_> = firsts
            .iter()
            .map(|(at, name)| (*at, Reason::EveryWithin(period, within.to_string(), name.clone())))
            .collect();
        if new_enough.len() == self.by_time.len() {
            let oldest = oldest(new_enough, &firsts);
            kept.extend(oldest.map(|(at, m)| (at, Reason::OldestWithin(period, within.to_string(), period.name(m)))));
        }
        kept
    }

    /// Those that are less than so long older than the newest.
    fn new_enough(&self, within: &Within) -> &[(usize, ZonedDateTime)] {
        let Some((_, newest)) = self.by_time.first() else { return &[] };
        let end = self.by_time.partition_point(|(_, moment)| within.holds(moment, newest));
        self.by_time.get(..end).unwrap_or_default()
    }
}

/// The newest of each period, and the period's name.
fn firsts(by_time: &[(usize, ZonedDateTime)], period: Period) -> Vec<(usize, String)> {
    let mut seen = HashSet::new();
    let named = by_time.iter().map(|(at, moment)| (*at, period.name(moment)));
    named.filter(|(_, name)| seen.insert(name.clone())).collect()
}

/// The oldest, if it is not the newest of its period.
fn oldest<'m>(by_time: &'m [(usize, ZonedDateTime)], firsts: &[(usize, String)]) -> Option<(usize, &'m ZonedDateTime)> {
    let (at, moment) = by_time.last()?;
    (!firsts.iter().any(|(first, _)| first == at)).then_some((*at, moment))
}
