//! Programs of the administrator's that run before and after a capture or an import.
//!
//! They come from one folder of this machine, never from a repository, and only where nobody but root could have put them
//! there. Knows nothing of what they do.

use crate::{
    error::{Error, Result},
    mn::host::{Order, Programs},
};
use std::{
    ffi::OsString,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where hooks are, one folder for each stage.
pub const BASE: &str = "/etc/xsnap/hooks.d";
/// How long one may take.
pub const LIMIT: Duration = Duration::from_secs(30 * 60);

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before anything is captured.
    PreCapture,
    /// After a capture, whatever came of it.
    PostCapture,
    /// Before anything is imported.
    PreImport,
    /// After an import, whatever came of it.
    PostImport,
}

impl Stage {
    /// The name of its folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreCapture => "pre-capture",
            Self::PostCapture => "post-capture",
            Self::PreImport => "pre-import",
            Self::PostImport => "post-import",
        }
    }

    /// Whether a hook that fails stops everything.
    fn is_before(self) -> bool {
        matches!(self, Self::PreCapture | Self::PreImport)
    }
}

/// A hook that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its path.
    pub hook: PathBuf,
    /// How it ended, or why it was not run.
    pub why: String,
}

impl Failed {
    /// As what stops everything.
    fn into_error(self) -> Error {
        Error::file("run", self.hook, io::Error::other(self.why))
    }
}

/// Runs the hooks of a stage in the order of their names, each with `XSNAP_STAGE` and these variables. Of the stages after
/// the work, all run, and those that failed are returned; no stage without a folder has any.
///
/// # Errors
/// `File` for the first hook that fails before the work, and where the folder cannot be read or trusted then.
pub fn run(
    programs: &dyn Programs,
    base: &Path,
    stage: Stage,
    variables: &[(String, OsString)],
) -> Result<Vec<Failed>> {
    let folder = base.join(stage.as_str());
    let mut failed = Vec::new();
    let mut judge = |outcome: std::result::Result<(), Failed>| match outcome {
        Err(e) if stage.is_before() => Err(e.into_error()),
        Err(e) => {
            failed.push(e);
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    let hooks = match found(base, &folder) {
        Ok(hooks) => hooks,
        Err(e) => {
            judge(Err(e))?;
            Vec::new()
        }
    };
    for hook in hooks {
        judge(run_one(programs, &hook, stage, variables))?;
    }
    Ok(failed)
}

/// The hooks of a folder, by name, after it was made sure that nobody else could have put any there.
fn found(base: &Path, folder: &Path) -> std::result::Result<Vec<PathBuf>, Failed> {
    let fail = |path: &Path, why: String| Failed { hook: path.to_owned(), why };
    for path in [base, folder] {
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(path, e.to_string())),
            Ok(meta) if !meta.is_dir() => return Err(fail(path, "it is no folder".into())),
            Ok(meta) => distrust(&meta).map_or(Ok(()), |why| Err(fail(path, why)))?,
        }
    }
    let names = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<OsString>>>()
    });
    let mut names = names.map_err(|e| fail(folder, e.to_string()))?;
    names.retain(|name| !is_left_over(&name.to_string_lossy()));
    names.sort();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether an editor or a package manager has left a file.
fn is_left_over(name: &str) -> bool {
    const ENDS: [&str; 12] = [
        "~",
        ".bak",
        ".disabled",
        ".dpkg-bak",
        ".dpkg-dist",
        ".dpkg-new",
        ".dpkg-old",
        ".orig",
        ".rpmnew",
        ".rpmorig",
        ".rpmsave",
        ".swp",
    ];
    name.starts_with('.') || ENDS.iter().any(|end| name.ends_with(end))
}

/// Why a file may be somebody else's than root's, or than that of whoever runs this.
fn distrust(meta: &Metadata) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    if ![0, own].contains(&meta.uid()) {
        return Some(format!("it belongs to user {}, and must belong to root", meta.uid()));
    }
    (meta.mode() & 0o022 != 0).then(|| "others than its owner may write to it".to_owned())
}

fn run_one(
    programs: &dyn Programs,
    hook: &Path,
    stage: Stage,
    variables: &[(String, OsString)],
) -> std::result::Result<(), Failed> {
    let fail = |why: String| Err(Failed { hook: hook.to_owned(), why });
    let meta = match hook.symlink_metadata() {
        Ok(meta) => meta,
        Err(e) => return fail(e.to_string()),
    };
    if !meta.is_file() {
        return fail("it is no file (a link is not followed: who could change what it leads to?)".into());
    }
    if let Some(why) = distrust(&meta) {
        return fail(why);
    }
    if meta.mode() & 0o111 == 0 {
        return fail("it is not executable (take it away, or call it NAME.disabled)".into());
    }
    let order = Order::new(hook, [""; 0]).within(LIMIT).with("XSNAP_STAGE", stage.as_str());
    let order = variables.iter().fold(order, |order, (name, value)| order.with(name, value));
    match programs.run(order) {
        Err(e) => fail(e.to_string()),
        Ok(outcome) if outcome.is_good() => Ok(()),
        Ok(outcome) => fail(outcome.why()),
    }
}
