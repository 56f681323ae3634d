// An FP8 product by CUTLASS for Hopper: operands by TMA, warp-specialised, with what follows it in its epilogue.
//
//   out = (x weight^T) * weight_scale * x_scale + bias            then GELU, then times factor and e4m3
//
// QGMMA's sums have few bits: after every four they go to float32 registers (CUTLASS's schedules without "fast
// accumulation"). That doubles a tile's registers, so a warp group takes 64 x 128 at most.
#pragma once

#include <cute/tensor.hpp>
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/epilogue/thread/activation.h>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "fp8_linear/product.h"

namespace amt::fp8 {

using cute::_0;
using cute::_1;
using cute::_128;
using cute::_2;
using cute::_64;
using cute::Shape;
using cute::Stride;
using E4m3 = cutlass::float_e4m3_t;
using Bf16 = cutlass::bfloat16_t;

// Two blocks of rows share a tile of weights; each of two warp groups takes half of a tile.
struct LargeTiles {
  using Tile = Shape<_128, _128, _128>;
  using Cluster = Shape<_2, _1, _1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};

// For products whose large tiles would leave multiprocessors idle. One warp group multiplies while the other ends its
// tile.
struct SmallTiles {
  using Tile = Shape<_64, _128, _128>;
  using Cluster = Shape<_1, _1, _1>;
  using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};

namespace tree {

namespace fusion = cutlass::epilogue::fusion;
constexpr auto to_nearest = cutlass::FloatRoundStyle::round_to_nearest;

template <template <class> class Function, class Out, class... Inputs>
using Apply = fusion::Sm90EVT<fusion::Sm90Compute<Function, Out, float, to_nearest>, Inputs...>;

// A value for each row of the result, or one for all: decided at run time. Unaligned: rows may begin anywhere.
template <class Tile>
using RowValue = fusion::Sm90ColBroadcast<0, Tile, float, float, Stride<bool, _0, int64_t>, 1, false>;
template <class Tile>
using UnitValue = fusion::Sm90RowBroadcast<0, Tile, float, float, Stride<_0, _1, int64_t>>;  // null: 0

template <class Tile, class Out>
using Linear = Apply<cutlass::homogeneous_multiply_add, Out, RowValue<Tile>,
                     Apply<cutlass::multiplies, float, UnitValue<Tile>, fusion::Sm90AccFetch>, UnitValue<Tile>>;
template <class Tile, class Out>
using LinearGelu = Apply<cutlass::epilogue::thread::GELU, Out, Linear<Tile, float>>;
template <class Tile>
using LinearGeluE4m3 = Apply<cutlass::multiplies, E4m3, RowValue<Tile>, LinearGelu<Tile, float>>;

template <class Tile>
typename RowValue<Tile>::Arguments row_value(const RowScale& scale) {
  return {scale.values, 0.0f, {scale.one_per_row, _0{}, 0}};
}

// A node's arguments: those of its inputs in order, then its own, of which these functions have none.
template <class Tile, class Out>
typename Linear<Tile, Out>::Arguments linear(const Product& p) {
  return {row_value<Tile>(p.x_scale), {{p.weight_scale}, {}, {}}, {p.bias}, {}};
}

}  // namespace tree

struct LinearOp {
  using Out = Bf16;
  template <class Tile>
  using Tree = tree::Linear<Tile, Out>;
  template <class Tile>
  static typename Tree<Tile>::Arguments arguments(const Product& p) {
    return tree::linear<Tile, Out>(p);
  }
};

struct LinearGeluOp {
  using Out = Bf16;
  template <class Tile>
  using Tree = tree::LinearGelu<Tile, Out>;
  template <class Tile>
  static typename Tree<Tile>::Arguments arguments(const Product& p) {
    return {tree::linear<Tile, float>(p), {}};
  }
};

struct LinearGeluE4m3Op {
  using Out = E4m3;
  template <class Tile>
  using Tree = tree::LinearGeluE4m3<Tile>;
  template <class Tile>
  static typename Tree<Tile>::Arguments arguments(const Product& p) {
    return {tree::row_value<Tile>(p.factor), {tree::linear<Tile, float>(p), {}}, {}};
  }
};

template <class Op, class Tiles>
struct Kernel {
  using Tile = typename Tiles::Tile;
  using Cluster = typename Tiles::Cluster;
  using Out = typename Op::Out;
  using RowMajor = cutlass::layout::RowMajor;
  static constexpr int bytes_of_tma = 16;
  static constexpr int out_alignment = bytes_of_tma / sizeof(Out);

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, RowMajor, out_alignment, Out, RowMajor,
      out_alignment, typename Tiles::Epilogue, typename Op::template Tree<Tile>>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, E4m3, RowMajor, bytes_of_tma, E4m3,
      cutlass::layout::ColumnMajor, bytes_of_tma, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      typename Tiles::Mainloop>::CollectiveOp;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<
      cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>>;

  static typename Gemm::Arguments arguments(const Product& p) {
    const int64_t depth = p.depth, units = p.units;
    typename Gemm::Arguments all{
        cutlass::gemm::GemmUniversalMode::kGemm,
        {p.rows, p.units, p.depth, 1},
        {static_cast<const E4m3*>(p.x), {depth, _1{}, 0}, static_cast<const E4m3*>(p.weight), {depth, _1{}, 0}},
        {Op::template arguments<Tile>(p), nullptr, {units, _1{}, 0}, static_cast<Out*>(p.out), {units, _1{}, 0}}};
    all.hw_info.device_id = p.device;
    all.hw_info.sm_count = p.multiprocessors;
    return all;
  }

  static const char* launch(const Product& p) {
    const auto all = arguments(p);
    if (Gemm::get_workspace_size(all) != 0) return "CUTLASS asks for memory that this kernel does not give";
    Gemm gemm;
    auto status = gemm.can_implement(all);
    if (status == cutlass::Status::kSuccess) status = gemm.initialize(all, nullptr, p.stream);
    if (status == cutlass::Status::kSuccess) status = gemm.run(p.stream);
    return status == cutlass::Status::kSuccess ? nullptr : cutlass::cutlassGetStatusString(status);
  }
};

// Large tiles where they give every multiprocessor one.
template <class Op>
const char* launch(const Product& p) {
  const int64_t tiles = int64_t{(p.rows + 127) / 128} * ((p.units + 127) / 128);
  return tiles >= p.multiprocessors ? Kernel<Op, LargeTiles>::launch(p) : Kernel<Op, SmallTiles>::launch(p);
}

}  // namespace amt::fp8
