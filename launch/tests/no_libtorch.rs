//! Ingest and the front door need no libtorch, so that they run where none is installed.

use std::process::Command;

#[test]
fn neither_ingest_nor_the_front_door_depends_on_libtorch() {
    for (package, program) in [("midi-ingest", false), ("midi-rwkv", false), ("midi-train", true)] {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&tree.stderr);
        assert!(tree.status.success(), "cargo tree of {package}: {said}");
        let tree = String::from_utf8_lossy(&tree.stdout);
        let names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(names.contains(&"midi-ingest"), "{package}: {tree}");
        // The trainer proves that the name looked for is the right one.
        assert_eq!(names.contains(&"tch"), program, "{package} and tch");
        assert_eq!(names.contains(&"torch-sys"), program, "{package} and torch-sys");
    }
}
