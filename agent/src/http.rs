//! hyper on the executor, with a limit on everything.

#[cfg(test)]
pub(crate) mod testing;
