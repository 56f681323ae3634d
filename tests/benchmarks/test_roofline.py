"""Nsight Compute's figures as a table: what is in it, in which order, and what is said of another file."""

from benchmarks import roofline

HEAD = f'"ID","Kernel Name","{roofline.TIME}","{roofline.MEMORY}","{roofline.COMPUTE}","{roofline.REGISTERS}"'
PRINTED = f"""==PROF== Connected to process 7
{HEAD}
"","","nsecond","%","%","register/thread"
"0","small_kernel(int)","1,500","10.5","20.2","32"
"1","large_kernel","40000","71.0","33.0","113"
"2","large_kernel","44,000","73.0","35.0","113"
"3","large_kernel","42000","72.0","34.0","113"
"""


def test_kernels_by_time_with_their_share():
    head, _, *rows = roofline.table(roofline.read(PRINTED)).splitlines()
    assert head.endswith("| share of the ceiling, % |")
    assert rows == [
        "| large_kernel | 3 | 42.0 | 72 | 34 | – | 113 | 72 |",
        "| small_kernel | 1 | 1.5 | 10 | 20 | – | 32 | 20 |",
    ]


def test_the_command_prints_it_and_names_what_is_no_such_file(tmp_path, capsys):
    path = tmp_path / "refine.csv"
    path.write_text(PRINTED)
    assert roofline.main([str(path)]) == 0
    assert "| large_kernel | 3 |" in capsys.readouterr().out
    path.write_text("==ERROR== no kernels were profiled\n")
    assert roofline.main([str(path)]) == 2
    assert "refine.csv: no kernels are in it: print it by `ncu --import" in capsys.readouterr().err
    path.write_text(PRINTED.replace('"nsecond"', '"parsec"'))
    assert roofline.main([str(path)]) == 2
    assert "the unit of gpu__time_duration.sum is 'parsec'" in capsys.readouterr().err
    assert roofline.main([str(tmp_path / "none.csv")]) == 2
