//! What a package ships beside the binary, made from the command line's own definition: completions and manual pages.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::failure::Failure;

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write the pages of all commands into this directory instead, roadcall.1, roadcall-incident.1 and so on.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(of: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(of.shell, &mut Cli::command(), "roadcall", &mut script);
    print(&script)
}

pub(super) fn man(to: &Man) -> Result<ExitCode, Failure> {
    let command = Cli::command().flatten_help(false);
    if let Some(dir) = &to.dir {
        return pages(command, dir).map(|()| ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::other(format!("the manual page: {error}"), ""))?;
    print(&page)
}

fn pages(command: Command, dir: &Path) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::other(format!("{}: {error}", dir.display()), "");
    std::fs::create_dir_all(dir).map_err(fail)?;
    clap_mangen::generate_to(command, dir).map_err(fail)
}

fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    match std::io::stdout().lock().write_all(text) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Closed),
        Err(error) => Err(Failure::other(format!("standard output: {error}"), "")),
    }
}
