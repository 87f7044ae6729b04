//! hyper on the executor, with a limit on everything.
