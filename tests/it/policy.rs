//! The policy of forgetting: what each rule keeps, at the borders of the calendar and after wrong clocks.

use crate::support::{random::Random, samples};
use jiff::{Timestamp, tz::TimeZone};
use std::collections::{BTreeMap, BTreeSet};
use xsnap::{
    id::SnapshotId,
    repo::{
        cluster::Cluster,
        policy::{Calendar, Count, Group, GroupBy, Period, Policy, Rule, Within},
        snapshot::Snapshot,
        tree::Time,
    },
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Where clocks go forward on the last Sunday of March at 2:00 and back on the last of October at 3:00.
const CENTRAL: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
/// Where clocks go back across midnight: at 0:01 on the first Sunday of November, to 23:01 of Saturday.
const NEWFOUNDLAND: &str = "NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01";
const ALL_TOGETHER: GroupBy = GroupBy { cluster: false, host: false, paths: false, tags: false };
const PERIODS: [Period; 5] = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

/// A snapshot of this commit, made at this time.
fn made(commit: u64, seconds: i64) -> Snapshot {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&commit.to_be_bytes());
    Snapshot {
        id: SnapshotId(id),
        time: Time { seconds, nanoseconds: 0 },
        commit,
        tags: Vec::new(),
        protected: false,
        ..samples::snapshot()
    }
}

/// Snapshots of these times, each the next commit.
fn series(times: &[&str]) -> Vec<Snapshot> {
    (1..).zip(times).map(|(commit, time)| made(commit, at(time))).collect()
}

/// One at the same hour of every day from the first on.
fn nights(first: &str, count: u32) -> Vec<Snapshot> {
    (0..count).map(|n| made(u64::from(n) + 1, at(first) + i64::from(n) * DAY)).collect()
}

fn calendar(zone: &str) -> Calendar {
    let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::posix(zone).unwrap() };
    Calendar { now: Time { seconds: at("2100-01-01T00:00:00Z"), nanoseconds: 0 }, zone }
}

fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy { rules: rules.into_iter().collect() }
}

fn every(period: Period, n: u32) -> Rule {
    Rule::Every(period, Count::Of(n))
}

fn within(text: &str) -> Within {
    Within::parse(text).unwrap()
}

fn in_groups<'a>(
    rules: impl IntoIterator<Item = Rule>,
    snapshots: &'a [Snapshot],
    by: GroupBy,
    calendar: &Calendar,
) -> Vec<Group<'a>> {
    policy(rules).apply(snapshots, by, calendar)
}

/// The commits of what is kept, in order.
fn kept_in(groups: &[Group<'_>]) -> Vec<u64> {
    let kept = groups.iter().flat_map(|group| &group.judged).filter(|j| !j.reasons.is_empty());
    let commits: BTreeSet<u64> = kept.map(|j| j.snapshot.commit).collect();
    commits.into_iter().collect()
}

fn kept(rules: impl IntoIterator<Item = Rule>, snapshots: &[Snapshot], zone: &str) -> Vec<u64> {
    kept_in(&in_groups(rules, snapshots, ALL_TOGETHER, &calendar(zone)))
}

/// Why the snapshot of a commit is kept, in words.
fn why(rules: impl IntoIterator<Item = Rule>, snapshots: &[Snapshot], commit: u64) -> Vec<String> {
    let groups = in_groups(rules, snapshots, ALL_TOGETHER, &calendar("UTC"));
    let judged = groups.iter().flat_map(|group| &group.judged).find(|j| j.snapshot.commit == commit).unwrap();
    judged.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn the_last_n_are_kept_and_say_which_they_are() {
    let snapshots = nights("2026-05-01T23:00:00Z", 5);
    assert_eq!(kept([Rule::Last(Count::Of(2))], &snapshots, "UTC"), [4, 5]);
    assert_eq!(kept([Rule::Last(Count::Of(9))], &snapshots, "UTC"), [1, 2, 3, 4, 5]);
    assert_eq!(kept([Rule::Last(Count::All)], &snapshots, "UTC"), [1, 2, 3, 4, 5]);
    assert_eq!(why([Rule::Last(Count::Of(2))], &snapshots, 5), ["latest", "last 1"]);
    assert_eq!(
        why([Rule::Last(Count::Of(2)), every(Period::Day, 3)], &snapshots, 4),
        ["last 2", "daily 2: 2026-05-04"]
    );
    assert_eq!(why([Rule::Last(Count::Of(2))], &snapshots, 3), [""; 0]);
}

#[test]
fn the_newest_of_each_period_is_kept_and_only_periods_with_snapshots_count() {
    let snapshots = series(&[
        "2026-05-01T08:00:00Z",
        "2026-05-01T20:00:00Z",
        "2026-05-04T08:00:00Z",
        "2026-05-04T08:59:59Z",
        "2026-05-09T00:00:00Z",
        "2026-05-09T23:59:59Z",
        "2026-05-10T00:00:00Z",
    ]);
    assert_eq!(kept([every(Period::Day, 3)], &snapshots, "UTC"), [4, 6, 7]);
    assert_eq!(kept([every(Period::Hour, 4)], &snapshots, "UTC"), [4, 5, 6, 7]);
    assert_eq!(kept([every(Period::Week, 1)], &snapshots, "UTC"), [7]);
    assert_eq!(kept([every(Period::Day, 4)], &snapshots, "UTC"), [2, 4, 6, 7]);
}

#[test]
fn while_there_are_fewer_periods_than_wanted_the_oldest_is_kept_too() {
    let snapshots = series(&["2026-05-01T08:00:00Z", "2026-05-01T20:00:00Z", "2026-05-02T08:00:00Z"]);
    let rules = || [every(Period::Day, 3)];
    assert_eq!(kept(rules(), &snapshots, "UTC"), [1, 2, 3]);
    assert_eq!(why(rules(), &snapshots, 1), ["oldest, daily: 2026-05-01"]);
    assert_eq!(kept([every(Period::Day, 2)], &snapshots, "UTC"), [2, 3], "once there are as many, it is not");
    assert_eq!(kept([Rule::Every(Period::Month, Count::All)], &snapshots, "UTC"), [1, 3]);
    assert_eq!(kept([every(Period::Day, 0), Rule::Last(Count::Of(1))], &snapshots, "UTC"), [3], "none is wanted");
}

#[test]
fn weeks_begin_on_monday_and_belong_to_the_year_of_their_thursday() {
    let snapshots = series(&[
        "2020-12-27T12:00:00Z", // Sunday of week 52
        "2020-12-28T12:00:00Z", // Monday of week 53
        "2021-01-03T12:00:00Z", // Sunday of week 53
        "2021-01-04T12:00:00Z", // Monday of week 1
        "2021-01-10T12:00:00Z", // Sunday of week 1
    ]);
    assert_eq!(kept([every(Period::Week, 3)], &snapshots, "UTC"), [1, 3, 5]);
    assert!(why([every(Period::Week, 3)], &snapshots, 3).contains(&"weekly 2: 2020-W53".to_owned()));
    assert_eq!(kept([every(Period::Year, 2)], &snapshots, "UTC"), [2, 5], "while the year ends with December");
    assert_eq!(kept([every(Period::Month, 2)], &snapshots, "UTC"), [2, 5]);
}

#[test]
fn days_and_hours_are_those_of_the_zone_given() {
    let snapshots = series(&["2026-01-31T22:30:00Z", "2026-01-31T23:30:00Z", "2026-02-01T22:59:59Z"]);
    assert_eq!(kept([every(Period::Day, 2)], &snapshots, "UTC"), [2, 3]);
    assert_eq!(kept([every(Period::Day, 2)], &snapshots, CENTRAL), [1, 3]);
    assert_eq!(kept([every(Period::Month, 2)], &snapshots, CENTRAL), [1, 3]);
}

#[test]
fn the_hour_that_comes_twice_is_two_and_the_one_that_never_comes_is_none() {
    // 2:15 and 2:45 summer time, then 2:15 and 2:45 winter time.
    let twice =
        series(&["2026-10-25T00:15:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:15:00Z", "2026-10-25T01:45:00Z"]);
    assert_eq!(kept([every(Period::Hour, 2)], &twice, CENTRAL), [2, 4]);
    assert_eq!(kept([every(Period::Day, 1)], &twice, CENTRAL), [4]);
    // 1:59:59 and 3:00:00.
    let never = series(&["2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z"]);
    assert_eq!(kept([every(Period::Hour, 2)], &never, CENTRAL), [1, 2]);
    // 23:30 of Saturday, 0:00:30 of Sunday, and 23:30 of Saturday once more.
    let back =
        series(&["2025-10-30T12:00:00Z", "2025-11-02T02:00:00Z", "2025-11-02T02:30:30Z", "2025-11-02T03:00:00Z"]);
    let groups = in_groups([every(Period::Day, 3)], &back, ALL_TOGETHER, &calendar(NEWFOUNDLAND));
    assert_eq!(kept_in(&groups), [1, 3, 4], "Saturday counts once, and leaves room for Thursday");
}

#[test]
fn within_reaches_back_from_the_newest_by_the_calendar() {
    let snapshots = series(&[
        "2024-02-28T12:00:00Z",
        "2024-02-29T12:00:00Z",
        "2024-02-29T12:00:01Z",
        "2024-03-29T12:00:00Z",
        "2024-03-31T12:00:00Z",
    ]);
    let of = |text: &str| kept([Rule::Within(within(text))], &snapshots, "UTC");
    assert_eq!(of("1h"), [5]);
    assert_eq!(of("2d"), [5], "what is exactly so much older is not within");
    assert_eq!(of("2d1h"), [4, 5]);
    assert_eq!(of("1m"), [3, 4, 5], "a month before the last of March is the last of February");
    assert_eq!(of("5w"), [1, 2, 3, 4, 5]);
    assert_eq!(of("19998y"), [1, 2, 3, 4, 5], "longer than there are dates");
    assert_eq!(why([Rule::Within(within("2d1h"))], &snapshots, 4), ["within 2d1h"]);
    // A day across the change of clocks has 23 hours.
    let spring = series(&["2026-03-28T11:00:00Z", "2026-03-29T10:30:00Z"]);
    assert_eq!(kept([Rule::Within(within("1d"))], &spring, CENTRAL), [1, 2][1..]);
    assert_eq!(kept([Rule::Within(within("24h"))], &spring, CENTRAL), [1, 2]);
}

#[test]
fn within_by_periods_thins_out_what_is_new_enough() {
    let snapshots = series(&[
        "2026-05-01T12:00:00Z",
        "2026-05-07T08:00:00Z",
        "2026-05-07T20:00:00Z",
        "2026-05-08T08:00:00Z",
        "2026-05-08T20:00:00Z",
    ]);
    let rule = |text: &str| [Rule::EveryWithin(Period::Day, within(text))];
    assert_eq!(kept(rule("3d"), &snapshots, "UTC"), [3, 5]);
    assert_eq!(kept(rule("30d"), &snapshots, "UTC"), [1, 3, 5]);
    assert_eq!(kept(rule("30d"), &snapshots[1..], "UTC"), [2, 3, 5], "the oldest, where all are new enough");
    assert_eq!(why(rule("30d"), &snapshots[1..], 2), ["oldest, daily within 30d: 2026-05-07"]);
    assert_eq!(why(rule("3d"), &snapshots, 3), ["daily within 3d: 2026-05-07"]);
}

#[test]
fn lengths_of_time_that_make_no_sense_are_refused() {
    for text in ["", "5", "d", "1x", "1d2", "-1d", "1d1d", "0d", "0y0h", " 1d", "1 d", "99999y", "4294967296h", "1é"] {
        assert!(Within::parse(text).is_err(), "{text:?}");
    }
    for text in ["1y5m7d2h", "1h", "2w", "07d", "2h1d", "0y1d"] {
        assert_eq!(Within::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn tags_keep_what_has_all_of_a_list() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 5);
    for (n, tags) in [(0, &["a", "b"][..]), (1, &["a"]), (2, &["b"])] {
        snapshots[n].tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    }
    let tags = |words: &[&str]| Rule::Tags(words.iter().map(|&word| word.to_owned()).collect());
    assert_eq!(kept([tags(&["a"])], &snapshots, "UTC"), [1, 2, 5], "and the latest");
    assert_eq!(kept([tags(&["b", "a"])], &snapshots, "UTC"), [1, 5]);
    assert_eq!(kept([tags(&["b", "a"]), tags(&["b"])], &snapshots, "UTC"), [1, 3, 5]);
    assert_eq!(kept([tags(&[])], &snapshots, "UTC"), [4, 5]);
    assert_eq!(why([tags(&["b", "a"])], &snapshots, 1), ["tags b,a"]);
}

#[test]
fn what_is_protected_is_kept_whatever_the_rules_say() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 5);
    snapshots[1].protected = true;
    assert_eq!(kept([Rule::Last(Count::Of(1))], &snapshots, "UTC"), [2, 5]);
    assert_eq!(kept([], &snapshots, "UTC"), [2], "even without any rule");
    assert_eq!(why([every(Period::Day, 9)], &snapshots, 2), ["protected", "daily 4: 2026-05-02"]);
}

#[test]
fn a_group_of_which_no_rule_keeps_anything_is_known() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 3);
    let emptied = |rules: &[Rule], snapshots: &[Snapshot]| {
        let groups = in_groups(rules.iter().cloned(), snapshots, ALL_TOGETHER, &calendar("UTC"));
        groups.iter().any(Group::is_emptied)
    };
    let slip = [Rule::Tags(vec!["dayly".into()])];
    assert!(emptied(&slip, &snapshots) && emptied(&[], &snapshots));
    assert!(!emptied(&[Rule::Last(Count::Of(1))], &snapshots));
    assert!(!emptied(&slip, &snapshots[..1]), "the latest is kept, and nothing is forgotten");
    snapshots[0].protected = true;
    assert!(emptied(&slip, &snapshots), "that something is protected makes the rule no better");
    snapshots[0].tags = vec!["dayly".into()];
    assert!(!emptied(&slip, &snapshots));
}

#[test]
fn snapshots_are_judged_among_those_of_their_group_only() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 8);
    for (n, s) in snapshots.iter_mut().enumerate() {
        s.host = if n & 1 == 0 { b"mn1".into() } else { b"mn2".into() };
        s.sources = if n & 2 == 0 { vec![b"/a".into(), b"/b".into()] } else { vec![b"/c".into()] };
        s.tags = if n & 4 == 0 { vec!["x".into(), "y".into()] } else { vec!["y".into(), "x".into()] };
    }
    snapshots[7].sources = vec![b"/c".into(), b"/c".into()];
    let latest = |host, paths, tags| {
        let groups = in_groups(
            [Rule::Last(Count::Of(1))],
            &snapshots,
            GroupBy { host, paths, tags, ..ALL_TOGETHER },
            &calendar("UTC"),
        );
        assert!(groups.iter().all(|g| g.key.host.is_some() == host && g.key.paths.is_some() == paths));
        assert!(groups.iter().all(|g| g.key.tags.is_some() == tags));
        kept_in(&groups)
    };
    assert_eq!(latest(false, false, false), [8]);
    assert_eq!(latest(true, false, false), [7, 8]);
    assert_eq!(latest(false, true, false), [6, 8]);
    assert_eq!(latest(true, true, false), [5, 6, 7, 8]);
    assert_eq!(latest(false, false, true), [8], "tags have no order");
    snapshots[0].tags = vec!["y".into()];
    let by_tags = GroupBy { tags: true, ..ALL_TOGETHER };
    assert_eq!(kept_in(&in_groups([Rule::Last(Count::Of(1))], &snapshots, by_tags, &calendar("UTC"))), [1, 8]);
    assert_eq!(in_groups([], &[], by_tags, &calendar("UTC")).len(), 0);
}

#[test]
fn a_dead_clock_battery_never_costs_the_latest_commit() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 10);
    snapshots.push(made(11, at("1970-01-01T00:05:00Z")));
    for rules in [
        vec![every(Period::Day, 3)],
        vec![every(Period::Year, 1)],
        vec![Rule::Within(within("2d"))],
        vec![Rule::EveryWithin(Period::Day, within("2d"))],
        vec![Rule::Last(Count::Of(2))],
        vec![Rule::Tags(vec!["none".into()])],
    ] {
        let kept = kept(rules.clone(), &snapshots, "UTC");
        assert!(kept.contains(&11), "{rules:?}: {kept:?}");
    }
    assert_eq!(kept([every(Period::Day, 3)], &snapshots, "UTC"), [8, 9, 10, 11], "nor those whose clocks were right");
    assert_eq!(kept([Rule::Last(Count::Of(2))], &snapshots, "UTC"), [9, 10, 11], "the last by commit and by time");
    assert_eq!(why([Rule::Last(Count::Of(2))], &snapshots, 9), ["last 2 by time"]);
}

#[test]
fn what_claims_to_come_from_the_future_takes_no_place() {
    let now = Time { seconds: at("2026-05-08T00:00:00Z"), nanoseconds: 0 };
    let today = Calendar { now, zone: TimeZone::UTC };
    let mut snapshots = nights("2026-05-01T23:00:00Z", 7);
    for n in 0_u32..5 {
        snapshots.insert(2, made(20 + u64::from(n), at("2040-01-01T00:00:00Z") + i64::from(n) * 400 * DAY));
    }
    snapshots.push(made(30, i64::MAX));
    let of = |rules: &[Rule]| kept_in(&in_groups(rules.iter().cloned(), &snapshots, ALL_TOGETHER, &today));
    assert_eq!(of(&[every(Period::Day, 3)]), [5, 6, 7, 20, 21, 22, 23, 24, 30]);
    assert_eq!(of(&[every(Period::Year, 1)]), [7, 20, 21, 22, 23, 24, 30]);
    assert_eq!(of(&[Rule::Within(within("30h"))]), [6, 7, 20, 21, 22, 23, 24, 30]);
    assert_eq!(of(&[Rule::Last(Count::Of(1))]), [7, 30], "a rule that asks for no time forgets them");
    let fallen_behind = Calendar { now: Time { seconds: 300, nanoseconds: 0 }, zone: TimeZone::UTC };
    let groups = in_groups([every(Period::Day, 1)], &snapshots, ALL_TOGETHER, &fallen_behind);
    assert_eq!(kept_in(&groups).len(), snapshots.len(), "with the clock of this machine behind, nothing is forgotten");
    assert_eq!(groups[0].judged[0].reasons[0].to_string(), "its time is yet to come");
}

#[test]
fn of_equal_times_the_later_commit_stands_for_the_period() {
    let mut snapshots: Vec<Snapshot> = (1..=4).map(|commit| made(commit, at("2026-05-01T23:00:00Z"))).collect();
    snapshots.swap(0, 3);
    assert_eq!(kept([every(Period::Day, 1)], &snapshots, "UTC"), [4]);
    assert_eq!(kept([every(Period::Hour, 2)], &snapshots, "UTC"), [1, 4], "and the earliest is the oldest");
    assert_eq!(kept([Rule::Last(Count::Of(2))], &snapshots, "UTC"), [3, 4]);
}

#[test]
fn times_beyond_every_calendar_are_in_their_order() {
    let times = [i64::MIN, i64::MIN + 1, -1 << 35, 0, at("2026-05-01T23:00:00Z")];
    let mut snapshots: Vec<Snapshot> = (1..).zip(times).map(|(commit, time)| made(commit, time)).collect();
    snapshots[3].time.nanoseconds = u32::MAX;
    for zone in ["UTC", CENTRAL, NEWFOUNDLAND, "<+14>-14", "<-12>12"] {
        assert_eq!(kept([Rule::Last(Count::Of(2))], &snapshots, zone), [4, 5]);
        assert_eq!(kept([Rule::Within(within("100y"))], &snapshots, zone), [4, 5]);
        let kept = kept(PERIODS.map(|period| every(period, 4)), &snapshots, zone);
        assert_eq!(kept, [2, 3, 4, 5], "both first are of one period");
    }
}

/// What a plain reading of the rules keeps, in UTC, of times in the past: the names of periods from numbers of days,
/// everything sorted anew for each rule.
fn plainly_kept(rules: &[Rule], snapshots: &[Snapshot]) -> Vec<u64> {
    let mut kept = BTreeSet::new();
    let mut by_time: Vec<&Snapshot> = snapshots.iter().collect();
    by_time.sort_by_key(|s| (s.time, s.commit));
    kept.extend(snapshots.iter().map(|s| s.commit).max());
    kept.extend(snapshots.iter().filter(|s| s.protected).map(|s| s.commit));
    for rule in rules {
        match rule {
            Rule::Last(Count::Of(n)) => {
                let mut commits: Vec<u64> = snapshots.iter().map(|s| s.commit).collect();
                commits.sort_unstable();
                kept.extend(commits.iter().rev().take(*n as usize));
                kept.extend(by_time.iter().rev().take(*n as usize).map(|s| s.commit));
            }
            Rule::Every(period, Count::Of(n)) => {
                let mut newest = BTreeMap::new();
                newest.extend(by_time.iter().map(|s| (period_number(*period, s.time.seconds), s.commit)));
                kept.extend(newest.values().rev().take(*n as usize));
                if newest.len() < *n as usize {
                    kept.extend(by_time.first().map(|s| s.commit));
                }
            }
            rule => panic!("{rule:?} is not read plainly"),
        }
    }
    kept.into_iter().collect()
}

fn period_number(period: Period, seconds: i64) -> i64 {
    let days = seconds.div_euclid(DAY);
    let date = Timestamp::from_second(seconds).unwrap().to_zoned_datetime(TimeZone::UTC).date();
    match period {
        Period::Hour => seconds.div_euclid(HOUR),
        Period::Day => days,
        // The first day of 1970 was a Thursday.
        Period::Week => (days + 3).div_euclid(7),
        Period::Month => i64::from(date.year()) * 12 + i64::from(date.month()),
        Period::Year => date.year().into(),
    }
}

#[test]
fn of_sixty_nights_seven_days_and_four_weeks_are_kept_on_whatever_day_it_is() {
    let rules = [every(Period::Day, 7), every(Period::Week, 4)];
    for shift in 0..14 {
        let mut snapshots = nights("2026-03-01T23:00:00Z", 60);
        snapshots.iter_mut().for_each(|s| s.time.seconds += shift * DAY);
        let kept = kept(rules.clone(), &snapshots, "UTC");
        assert_eq!(kept, plainly_kept(&rules, &snapshots));
        assert!(kept.ends_with(&[54, 55, 56, 57, 58, 59, 60]) && (9..=10).contains(&kept.len()), "{kept:?}");
    }
    // Night by night, as a machine does it, nothing is lost that seven days and four weeks need.
    let mut there: Vec<Snapshot> = Vec::new();
    for night in nights("2026-03-01T23:00:00Z", 60) {
        there.push(night);
        let kept = kept(rules.clone(), &there, "UTC");
        there.retain(|s| kept.contains(&s.commit));
    }
    let once = kept(rules, &nights("2026-03-01T23:00:00Z", 60), "UTC");
    assert_eq!(there.iter().map(|s| s.commit).collect::<Vec<_>>(), once);
}

/// Snapshots of a few hosts at random times, clustered so that periods hold several, some commits out of order.
fn random_snapshots(random: &mut Random) -> Vec<Snapshot> {
    let mut seconds = at("2025-10-20T00:00:00Z");
    let count = 1 + random.below(40);
    let mut snapshots = Vec::new();
    for commit in 1..=count {
        let step = *random.pick(&[0, 60, HOUR, 6 * HOUR, DAY, DAY, 9 * DAY, 40 * DAY, 300 * DAY]);
        seconds += i64::try_from(random.below(2)).unwrap() * step;
        let mut s = made(commit, if random.one_in(9) { seconds - 3 * step - 77 } else { seconds });
        s.time.nanoseconds = u32::try_from(random.below(3)).unwrap();
        s.protected = random.one_in(12);
        s.host = if random.one_in(3) { b"mn2".into() } else { b"mn1".into() };
        s.tags = ["a", "b"].iter().filter(|_| random.one_in(3)).map(|&tag| tag.to_owned()).collect();
        snapshots.push(s);
    }
    snapshots
}

fn random_counts(random: &mut Random) -> Vec<Rule> {
    let mut rules = Vec::new();
    for _ in 0..1 + random.below(3) {
        let n = 1 + u32::try_from(random.below(8)).unwrap();
        let period = *random.pick(&PERIODS);
        rules.push(if random.one_in(5) { Rule::Last(Count::Of(n)) } else { every(period, n) });
    }
    rules
}

#[test]
fn random_policies_keep_what_a_plain_reading_keeps() {
    let mut random = Random::new("policies read plainly", 0);
    for _ in 0..2000 {
        let snapshots = random_snapshots(&mut random);
        let rules = random_counts(&mut random);
        let expected = plainly_kept(&rules, &snapshots);
        assert_eq!(kept(rules.clone(), &snapshots, "UTC"), expected, "{rules:?} {snapshots:#?}");
    }
}

#[test]
fn a_policy_forgets_nothing_more_of_what_it_has_kept() {
    let mut random = Random::new("policies twice", 0);
    for _ in 0..1000 {
        let snapshots = random_snapshots(&mut random);
        let mut rules = random_counts(&mut random);
        if random.one_in(2) {
            rules.push(Rule::Within(within(random.pick::<&str>(&["5h", "3d", "2w", "1m3d", "1y"]))));
        }
        if random.one_in(2) {
            let within = within(random.pick::<&str>(&["30h", "8d", "3m", "2y"]));
            rules.push(Rule::EveryWithin(*random.pick(&PERIODS), within));
        }
        if random.one_in(3) {
            rules.push(Rule::Tags(vec!["a".into()]));
        }
        if random.one_in(3) {
            rules.remove(0);
        }
        let now = random.pick(&snapshots).time;
        let now = if random.one_in(2) { now } else { calendar("UTC").now };
        let by = GroupBy { host: random.one_in(2), tags: random.one_in(2), ..ALL_TOGETHER };
        for zone in ["UTC", CENTRAL, NEWFOUNDLAND] {
            let calendar = Calendar { now, ..calendar(zone) };
            let once = kept_in(&in_groups(rules.clone(), &snapshots, by, &calendar));
            let left: Vec<Snapshot> = snapshots.iter().filter(|s| once.contains(&s.commit)).cloned().collect();
            let again = kept_in(&in_groups(rules.clone(), &left, by, &calendar));
            assert_eq!(again, once, "{rules:?} {by:?} {zone} {now:?}");
            assert!(snapshots.iter().filter(|s| s.protected).all(|s| once.contains(&s.commit)));
            assert!(rules.is_empty() || once.contains(&snapshots.iter().map(|s| s.commit).max().unwrap()));
        }
    }
}

#[test]
fn nights_of_a_captured_node_are_one_series_whatever_was_found_there() {
    let mut snapshots = nights("2026-05-01T23:00:00Z", 4);
    for (n, s) in snapshots.iter_mut().enumerate() {
        s.cluster = Some(Cluster { name: "alpha".into(), ..Cluster::default() });
        s.sources = vec![format!("/install/custom/{n}").into_bytes()];
    }
    let by = GroupBy { cluster: true, host: true, paths: true, ..ALL_TOGETHER };
    assert_eq!(kept_in(&in_groups([Rule::Last(Count::Of(1))], &snapshots, by, &calendar("UTC"))), [4]);
    snapshots[0].cluster = None;
    assert_eq!(kept_in(&in_groups([Rule::Last(Count::Of(1))], &snapshots, by, &calendar("UTC"))), [1, 4]);
}
