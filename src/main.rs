//! The `millstream` binary: reads the command line, runs what it says, tells what went wrong in
//! one line.

use std::process::ExitCode;

use millstream::config::cli::{Cli, Command, ServeArgs, one_line};
use millstream::config::plan::Plan;
use millstream::{demo, mock, server, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&one_line(&error), USAGE),
    };
    let done = match cli.command {
        Command::Serve(args) => {
            let plan = match plan(&args) {
                Ok(plan) => plan,
                Err(error) => return fail(&error, USAGE),
            };
            telemetry::log::init(plan.log_level);
            server::run(&plan)
        }
        Command::Check(args) => match plan(&args) {
            Ok(plan) => {
                if let Err(error) = server::load_tls(&plan) {
                    return fail(&error, USAGE);
                }
                print!("{}", plan.describe());
                Ok(())
            }
            Err(error) => return fail(&error, USAGE),
        },
        Command::Mock(args) => {
            telemetry::log::init(log::LevelFilter::Info);
            mock::run(&args)
        }
        Command::Demo(args) => {
            telemetry::log::init(log::LevelFilter::Info);
            demo::run(&args)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn plan(args: &ServeArgs) -> Result<Plan, String> {
    Plan::from_args(args, server::raise_descriptor_limit(), server::cores())
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("millstream: {message}");
    ExitCode::from(code)
}
