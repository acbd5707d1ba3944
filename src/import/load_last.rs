//! The last resort: xCAT's own `tabrestore`, one table after the other, where xsnap itself cannot reach the server.
//!
//! It deletes before it checks, and it does not bring every value back; so headers are checked before, the values that it would
//! change are named before, and what it says of each table counts. `restorexCATdb`, which says that all is well whatever
//! happened, is never used.

use crate::{
    error::{Error, Result},
    import::{
        load_asked::Loaded,
        load_stage::{Staged, csv_path},
        load_tables::refused,
    },
    mn::host::Order,
    progress::{Event, Progress},
};
use std::time::Duration;

/// The command; round the daemon, which does not run.
const TABRESTORE: &str = "/opt/xcat/sbin/tabrestore";
const AROUND: (&str, &str) = ("XCATBYPASS", "1");
/// How long one table may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// Loads every table by xCAT's own command.
///
/// # Errors
/// `Damaged` where what was brought is not what was captured: then nothing was begun; `File` with the first table that was not
/// taken: those before it are loaded; `Interrupted`.
pub fn load(staged: &Staged<'_>, progress: &dyn Progress) -> Result<Loaded> {
    let names = staged.csv_names()?;
    let mut loaded = Loaded::default();
    let changed = staged.would_change()?;
    loaded.notes.extend(changed.into_iter().map(|word| format!("table {}: {}", word.table, word.why)));
    let mut tables = Vec::new();
    for name in &names {
        tables.push((name, staged.table(name)?.rows.len() as u64));
    }
    for (name, rows) in tables {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        progress.tell(Event::Path(name.as_bytes()));
        let csv = staged.inside.live_path(&csv_path(name));
        let order = Order::new(TABRESTORE, [csv]).with(AROUND.0, AROUND.1).within(LIMIT);
        let failed = |why: String| refused("load the tables into", staged, format!("table {name}: tabrestore: {why}"));
        match staged.request.machine.programs().run(order) {
            Ok(outcome) if outcome.is_good() => loaded.tables.push((name.clone(), rows)),
            Ok(outcome) => return Err(failed(outcome.why())),
            Err(e) => return Err(failed(e.to_string())),
        }
    }
    Ok(loaded)
}
