//! The README is part of the product: its commands work as printed, and CI runs the ones that it says it runs.

use std::{path::Path, process::Command};

const README: &str = include_str!("../../README.md");

/// The commands of every shell block, in order.
fn blocks() -> Vec<&'static str> {
    README.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let command = blocks().into_iter().find(|block| block.contains("cargo test")).unwrap().trim();
    assert!(include_str!("../../.ci/run").lines().any(|line| line == command), "{command}");
}

/// The binary under test stands in for the release build, and a folder of the test's own for the one in /tmp.
#[test]
fn every_command_of_the_readme_works_as_printed() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_xsnap")).parent().unwrap().to_str().unwrap();
    let build = "RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked \
                 --target \"$(uname -m)-unknown-linux-gnu\" && ";
    let built = "$PWD/target/$(uname -m)-unknown-linux-gnu/release";
    let text: String = blocks().into_iter().filter(|block| !block.contains("cargo test")).collect();
    assert!(text.contains(build) && text.contains("xsnap check --read-data"));
    let text = text.replace(build, "").replace(built, program);
    let text = text.replace("/tmp/xsnap-demo", folder.path().to_str().unwrap());
    let run = Command::new("bash").arg("-euxc").arg(&text).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(run.status.success(), "{}\n{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}
