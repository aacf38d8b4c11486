from expander_sae.ops import selftest


def test_every_backend_that_runs_here_agrees_with_the_reference():
    checks = selftest.run_checks()
    assert checks
    assert all(check.passed for check in checks), checks
