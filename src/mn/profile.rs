//! The rules of a capture, as data: what is taken of a management node, what is left out, what is only looked at.
//!
//! One profile is built in; a file of the same form adds to it. Knows nothing of any machine but how its files are found.

use crate::{
    error::{Error, Result},
    mn::{inside::Inside, machine::Family},
};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The built-in profile, as text.
pub const BUILT_IN: &str = include_str!("profile.toml");

/// How much a part matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Without it the machine cannot become that management node again.
    Must,
    /// xCAT makes it anew from its tables.
    Regenerable,
    /// Belongs to the host and not to xCAT.
    Host,
    /// Never taken, only listed.
    Seen,
}

impl Class {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Regenerable => "regenerable",
            Self::Host => "host",
            Self::Seen => "seen",
        }
    }
}

/// Files that are chosen together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRule {
    /// What it is chosen by.
    pub name: String,
    /// How much it matters.
    pub class: Class,
    /// What it is for, to people.
    pub why: String,
    /// Where it is: absolute paths, whose names may be patterns, and which may begin with a variable.
    pub paths: Vec<String>,
    /// Which of them have to be there.
    #[serde(default)]
    pub need: Vec<String>,
    /// Only the first that is there counts.
    #[serde(default)]
    pub first: bool,
    /// Only of this family of distributions.
    #[serde(default)]
    pub family: Option<FamilyName>,
}

/// A family of distributions, as a profile names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FamilyName {
    /// Red Hat and its like.
    Rhel,
    /// SUSE.
    Sles,
    /// Debian and Ubuntu.
    Debian,
}

impl FamilyName {
    /// Whether this is the family.
    pub fn is(self, family: Family) -> bool {
        match self {
            Self::Rhel => family == Family::Rhel,
            Self::Sles => family == Family::Sles,
            Self::Debian => family == Family::Debian,
        }
    }
}

/// Files that are left out, because somebody can make them again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutRule {
    /// What it is taken in by: `--with CLASS`.
    pub class: String,
    /// What it is, to people.
    pub why: String,
    /// Where it is, as in a part.
    pub paths: Vec<String>,
    /// The command that makes it again.
    pub again: String,
}

/// The rules of a capture.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What is taken, or looked at.
    #[serde(default, rename = "part")]
    pub parts: Vec<PartRule>,
    /// What is left out.
    #[serde(default, rename = "out")]
    pub out: Vec<OutRule>,
}

impl Profile {
    /// The built-in profile.
    ///
    /// # Errors
    /// `Usage`, never in a program whose tests have run.
    pub fn built_in() -> Result<Self> {
        Self::read(BUILT_IN, "the built-in profile")
    }

    /// Reads a profile. `what` names it in errors.
    ///
    /// # Errors
    /// `Usage` that says where it makes no sense.
    pub fn read(text: &str, what: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text).map_err(|e| Error::Usage(format!("{what} makes no sense: {e}")))?;
        for path in profile.parts.iter().flat_map(|p| &p.paths).chain(profile.out.iter().flat_map(|o| &o.paths)) {
            if !path.starts_with('/') && !path.starts_with('{') {
                return Err(Error::Usage(format!("{what}: {path:?} is no absolute path")));
            }
            matchers(path).map_err(|e| Error::Usage(format!("{what}: {path:?} is no pattern: {e}")))?;
        }
        Ok(profile)
    }

    /// Adds another profile: new parts, more paths of parts that are there, more that is left out.
    pub fn extend(&mut self, other: Self) {
        for rule in other.parts {
            match self.parts.iter_mut().find(|part| part.name == rule.name) {
                Some(part) => {
                    part.paths.extend(rule.paths);
                    part.need.extend(rule.need);
                }
                None => self.parts.push(rule),
            }
        }
        self.out.extend(other.out);
    }
}

/// What the variables of a profile stand for.
#[derive(Debug, Clone, Default)]
pub struct Variables(pub BTreeMap<&'static str, String>);

impl Variables {
    /// A path with its variable replaced; nothing where the variable has no value.
    pub fn fill(&self, path: &str) -> Option<String> {
        let Some(rest) = path.strip_prefix('{') else { return Some(path.to_owned()) };
        let (name, rest) = rest.split_once('}')?;
        let value = self.0.get(name)?.trim_end_matches('/');
        // What a table says is a path and no pattern.
        Some(format!("{}{rest}", globset::escape(value)))
    }
}

/// The names of a path: what they are, or what they have to match.
enum Name {
    Plain(Vec<u8>),
    Pattern(Box<GlobMatcher>),
}

fn matchers(path: &str) -> Result<Vec<Name>, globset::Error> {
    let name = |name: &str| {
        if !name.contains(['*', '?', '[', '{', '\\']) {
            return Ok(Name::Plain(name.as_bytes().to_vec()));
        }
        let glob = GlobBuilder::new(name).literal_separator(true).backslash_escape(true).build()?;
        Ok(Name::Pattern(Box::new(glob.compile_matcher())))
    };
    path.split('/').filter(|name| !name.is_empty()).map(name).collect()
}

/// The paths of a machine that a pattern means, in ascending order. A path without any pattern in it is returned whether
/// it is there or not.
pub fn expand(inside: &Inside, pattern: &str) -> Vec<Vec<u8>> {
    let Ok(names) = matchers(pattern) else { return Vec::new() };
    let mut paths = vec![Vec::new()];
    for name in names {
        let mut next = Vec::new();
        for path in paths {
            let below = |name: &[u8]| [path.as_slice(), b"/", name].concat();
            match &name {
                Name::Plain(name) => next.push(below(name)),
                Name::Pattern(glob) => {
                    let folder = if path.is_empty() { b"/".as_slice() } else { &path };
                    let there = inside.names(folder).unwrap_or_default();
                    let is_meant = |name: &&Vec<u8>| {
                        use std::os::unix::ffi::OsStrExt;
                        glob.is_match(std::ffi::OsStr::from_bytes(name))
                    };
                    next.extend(there.iter().filter(is_meant).map(|name| below(name)));
                }
            }
        }
        paths = next;
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profile_makes_sense_and_names_every_part_once() {
        let profile = Profile::built_in().unwrap();
        let mut names: Vec<&str> = profile.parts.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(profile.parts.iter().all(|p| p.need.iter().all(|need| p.paths.contains(need))));
    }

    #[test]
    fn a_file_adds_to_a_profile_and_one_that_makes_no_sense_is_refused_with_its_place() {
        let mut profile = Profile::built_in().unwrap();
        let more = "[[part]]\nname='hosts'\nclass='must'\nwhy='x'\npaths=['/etc/ethers']\n\
                    [[part]]\nname='munge'\nclass='must'\nwhy='keys'\npaths=['/etc/munge']\n";
        profile.extend(Profile::read(more, "more").unwrap());
        let part = |name: &str| profile.parts.iter().find(|p| p.name == name).unwrap();
        assert!(part("hosts").paths.contains(&"/etc/ethers".into()) && part("hosts").paths.len() == 3);
        assert_eq!(part("munge").paths, ["/etc/munge"]);
        for (bad, word) in [
            ("[[part]]\nname='x'\nclass='maybe'\nwhy=''\npaths=[]", "line 3"),
            ("[[part]]\nname='x'\nclass='must'\nwhy=''\npaths=['etc']", "absolute"),
            ("[[part]]\nname='x'\nclass='must'\nwhy=''\npaths=['/[']", "pattern"),
            ("[[parts]]\nname='x'", "parts"),
        ] {
            let error = Profile::read(bad, "a file").unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn patterns_are_looked_for_and_variables_are_paths_and_no_patterns() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["srv/[x]/xcat/genesis.fs.x86_64", "srv/x/xcat/genesis.no", "etc/a.conf", "etc/b.conf"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let inside = Inside::open(dir.path()).unwrap();
        let variables = Variables([("tftpdir", "/srv/[x]/".to_owned())].into());
        let filled = variables.fill("{tftpdir}/xcat/genesis.*").unwrap();
        assert_eq!(expand(&inside, &filled), [b"/srv/[x]/xcat/genesis.fs.x86_64".to_vec()]);
        assert_eq!(expand(&inside, "/etc/*.conf"), [b"/etc/a.conf".to_vec(), b"/etc/b.conf".to_vec()]);
        assert_eq!(expand(&inside, "/not/there"), [b"/not/there".to_vec()]);
        assert_eq!(variables.fill("{installdir}/x"), None);
    }
}
