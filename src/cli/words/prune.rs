//! The words of prune, which `forget --prune` shares.

use clap::Args as Group;
use xsnap::repo::sweep::MaxUnused;

#[derive(Debug, Group)]
#[command(after_help = PRUNE_EXAMPLES)]
pub struct Prune {
    #[command(flatten)]
    pub limits: Limits,
    /// Change nothing; say what would be freed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

const PRUNE_EXAMPLES: &str = "\
A prune is alone with the repository: backups and restores wait, or it does. Packs that nothing needs are deleted first \
and need no room; then packs of which only a part is needed are written anew, some at a time. It may be stopped, or lose \
its stick, at any moment: nothing that is needed is lost, and the next prune goes on.

Examples:
  xsnap prune
  xsnap prune --dry-run
  xsnap prune --max-unused 0
  xsnap prune --max-unused unlimited
  xsnap prune --max-repack-size 4G --repack-small";

/// How much is written anew for how much room.
#[derive(Debug, Group)]
pub struct Limits {
    /// How much that nothing needs may stay in packs that are needed in part: a size such as `500M`, a share of all
    /// packs such as `5%`, or `unlimited`
    #[arg(long, value_name = "SIZE|SHARE", value_parser = parse_max_unused, default_value = "5%")]
    pub max_unused: MaxUnused,
    /// Write no more than this anew; the rest waits for the next prune
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_repack_size: Option<u64>,
    /// Join packs that are much shorter than usual
    #[arg(long)]
    pub repack_small: bool,
}

fn parse_max_unused(text: &str) -> Result<MaxUnused, String> {
    if text == "unlimited" {
        return Ok(MaxUnused::Unlimited);
    }
    match text.strip_suffix('%') {
        None => parse_size(text).map(MaxUnused::Bytes),
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MaxUnused::Percent(percent)),
            _ => Err("a share lies between 0% and 100%".into()),
        },
    }
}

/// A size as people write it: bytes, or with K, M, G, T for powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || "a size is a number, with K, M, G or T after it for powers of 1024".to_owned();
    let upper = text.to_ascii_uppercase();
    let number = upper.trim_end_matches("IB").trim_end_matches('B');
    let (number, shift) = match number.char_indices().next_back() {
        Some((at, unit @ ('K' | 'M' | 'G' | 'T'))) => {
            let shift = match unit {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                _ => 40,
            };
            (number.get(..at).unwrap_or_default(), shift)
        }
        _ => (number, 0),
    };
    let whole: u64 = number.parse().map_err(|_| bad())?;
    whole.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("3k", 3 << 10), ("5MiB", 5 << 20), ("7GB", 7 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "99999999999T", "5%"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_max_unused("5%"), Ok(MaxUnused::Percent(5.0)));
        assert!(parse_max_unused("101%").is_err());
    }
}
