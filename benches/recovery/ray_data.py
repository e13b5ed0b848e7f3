"""Ray Data, which starts a task again whose worker has died."""

import os
import sys

import ray


def main(items: int, workers: int) -> None:
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.path[0]}})
    folder = os.getcwd()

    def survived(batch):
        from work import die_once

        os.chdir(folder)
        die_once(int(batch["id"][0]))
        return batch

    rows = ray.data.range(items, override_num_blocks=items).map_batches(survived, batch_size=1).take_all()
    assert len(rows) == items, rows


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
