// A Linux build of torch has no MPS backend. This lets its autograd engine and its `torch.accelerator` treat "mps" as a device
// with one stream on which nothing ever has to be waited for. It brings no kernel and no memory: only FakeTensors can be "on" it.
// Process-wide and for good, so only processes that do nothing else may load it (`fake_mac.py`).

#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr auto kMps = c10::DeviceType::MPS;

// The base class answers with device index -1, which the engine cannot use to find the device's queue.
struct OneDevice final : c10::impl::NoOpDeviceGuardImpl<kMps> {
  c10::Device getDevice() const override {
    return {kMps, 0};
  }
  c10::Device exchangeDevice(c10::Device) const override {
    return getDevice();
  }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kMps, 0));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    return getStream(stream.device());
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    TORCH_CHECK(false, "the host waits for the device");
  }
};

const OneDevice one_device;
const c10::impl::DeviceGuardImplRegistrar registrar(kMps, &one_device);

struct Hooks final : at::MPSHooksInterface {
  void init() const override {}
  bool hasMPS() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
};

} // namespace

namespace at {
// torch looks the class up under this name.
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, Hooks)
} // namespace at
