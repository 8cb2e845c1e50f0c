//! The front door: one experiment file in, and the stages run here or are rendered for a cluster.
//!
//! The launcher holds no music and no mathematics. It types the whole file before anything starts ([`experiment`]),
//! says what will happen ([`plan`]), starts the stages' own programs ([`target::local`]) and passes on how they end
//! ([`advice`]), or writes the same as manifests ([`target::kubernetes`]). It needs no libtorch.

pub mod advice;
pub mod cli;
pub mod committed;
pub mod doctor;
pub mod experiment;
pub mod machine;
pub mod plan;
pub mod signals;
pub mod target;
pub mod wait;

use std::io::Write;

use midi_ingest::job::exit::{Error, Exit, Result, at_path};
use midi_ingest::job::shutdown::Shutdown;

use cli::{Cli, Command, DoctorArgs, PlanArgs, RenderArgs, RenderTarget, RunArgs, RunTarget, WaitArgs};
use experiment::Experiment;
use machine::Machine;
use plan::Plan;
use signals::Signals;
use target::kubernetes;

/// The version of the launcher and of the programs that it expects.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Does what was typed. Results go to `out`, everything else to `err`; returns the exit code of the process.
pub fn run(cli: &Cli, machine: &Machine, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let done = |result: Result<()>| result.map(|()| Exit::Done.code());
    let result = match &cli.command {
        Command::Run(args) => run_stages(args, machine, out, err),
        Command::Plan(args) => done(print_plan(args, out)),
        Command::Config(args) => {
            done(Experiment::load(&args.config, &args.sets).and_then(|e| print(out, &e.resolved()?)))
        }
        Command::Doctor(args) => done(examine(args, machine, out)),
        Command::Render(args) => done(render(args, out)),
        Command::Wait(args) => done(wait_for(args, err)),
    };
    result.unwrap_or_else(|error| {
        // With standard error closed, the exit code alone must tell.
        let _ = writeln!(err, "error: {error}");
        error.exit().code()
    })
}

fn run_stages(args: &RunArgs, machine: &Machine, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    let experiment = Experiment::load(&args.experiment.config, &args.experiment.sets)?;
    let plan = Plan::new(&experiment, &args.experiment, &args.only)?;
    match args.target {
        RunTarget::Local => target::local::run(&plan, machine, &Signals::of_this_process()?, out, err),
    }
}

fn print_plan(args: &PlanArgs, out: &mut dyn Write) -> Result<()> {
    let experiment = Experiment::load(&args.experiment.config, &args.experiment.sets)?;
    let plan = Plan::new(&experiment, &args.experiment, &args.only)?;
    print(out, &plan.text(&args.experiment.config))
}

fn examine(args: &DoctorArgs, machine: &Machine, out: &mut dyn Write) -> Result<()> {
    let experiment = args.config.as_ref().map(|config| Experiment::load(config, &args.sets));
    let checks = doctor::examine(machine, VERSION, experiment.as_ref(), args.store.as_deref());
    print(out, &doctor::table(&checks))?;
    doctor::verdict(&checks)
}

fn render(args: &RenderArgs, out: &mut dyn Write) -> Result<()> {
    let experiment = Experiment::load(&args.experiment.config, &args.experiment.sets)?;
    let image = args.image.clone().unwrap_or_else(|| format!("midi-rwkv:{VERSION}"));
    let settings =
        kubernetes::Settings { image, workers: args.workers, nodes: args.nodes, gpus_per_node: args.gpus_per_node };
    let rendering = match args.target {
        RenderTarget::Kubernetes => kubernetes::render(&experiment, &settings)?,
    };
    let folder = &args.output;
    fs_err::create_dir_all(folder).map_err(at_path("make the folder", folder))?;
    for (name, text) in &rendering.files {
        let path = folder.join(name);
        fs_err::write(&path, text).map_err(at_path("write", &path))?;
        print(out, &format!("{}\n", path.display()))?;
    }
    for note in &rendering.notes {
        print(out, &format!("note: {note}\n"))?;
    }
    print(out, &format!("start it with: kubectl apply -k {}\n", folder.display()))
}

fn wait_for(args: &WaitArgs, err: &mut dyn Write) -> Result<()> {
    let experiment = Experiment::load(&args.experiment.config, &args.experiment.sets)?;
    wait::wait(&experiment, args.stage, args.model.as_deref(), args.minutes, &Shutdown::on_signals()?, err)
}

/// Writes to standard output; a reader that has seen enough (`| head`) is no failure.
fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::storage("cannot write to standard output", e))
        }
        _ => Ok(()),
    }
}
