"""The checks of ``mrl.adapters.keras``, run by test_adapter_keras.py in processes of their own, one a backend of Keras.

``python adapter_keras_worker.py FOLDER`` runs every ``check_...`` and prints, as JSON, what each of them found wrong.
``--load`` runs those that need what another process saved in the folder.
"""

import json
import sys
import time
import traceback
import warnings

import adapter_keras_model as model
import adapter_keras_parts as parts
from adapter_keras_cases import BACKEND


def main():
    phase = ("load_",) if "--load" in sys.argv else ("check_", f"{BACKEND}_")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        cpu, two = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    found = {}
    for name, check in [*vars(parts).items(), *vars(model).items()]:
        if name.startswith(phase):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras' own
                    start = time.process_time()
                    check()
                    print(f"{time.process_time() - start:6.1f} s  {name}", file=sys.stderr)
                found[name] = None
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
